import os
import subprocess
import sys
from pathlib import Path

import pytest

from service.process.workers import Parallelism, choose, usable_cores
from tests.serving_kit import REPOSITORY


@pytest.mark.parametrize(
    ("workers", "threads", "cores", "gpu", "expected"),
    [
        (0, 0, 1, False, (1, 1)),
        (0, 0, 2, False, (2, 1)),
        (0, 0, 8, False, (8, 1)),
        (0, 0, 64, False, (8, 8)),
        (0, 0, 1, True, (1, 1)),
        (0, 0, 16, True, (1, 16)),
        (3, 0, 8, False, (3, 2)),
        (8, 0, 2, False, (8, 1)),
        (0, 5, 4, False, (4, 5)),
        (2, 7, 4, True, (2, 7)),
    ],
)
def test_unset_workers_and_threads_are_chosen_by_the_cores(
    workers: int, threads: int, cores: int, gpu: bool, expected: tuple[int, int]
) -> None:
    chosen = choose(workers=workers, threads=threads, cores=cores, gpu=gpu)
    assert chosen == Parallelism(workers=expected[0], threads=expected[1])


def have_cores(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(number)), raising=False)


@pytest.mark.parametrize(
    ("limit", "cores"),
    [
        ("max 100000", 6),
        ("600000 100000", 6),
        ("800000 100000", 6),
        ("200000 100000", 2),
        ("150000 100000", 2),
        ("50000 100000", 1),
        ("1000 100000", 1),
        ("300000 50000", 6),
        ("", 6),
        ("nonsense", 6),
    ],
)
def test_cgroup_v2_limit_is_respected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, cores: int
) -> None:
    have_cores(monkeypatch, 6)
    (tmp_path / "cpu.max").write_text(f"{limit}\n")
    assert usable_cores(tmp_path) == cores


@pytest.mark.parametrize(("quota", "cores"), [("-1", 6), ("250000", 3), ("900000", 6)])
def test_cgroup_v1_limit_is_respected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quota: str, cores: int
) -> None:
    have_cores(monkeypatch, 6)
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu/cpu.cfs_quota_us").write_text(f"{quota}\n")
    (tmp_path / "cpu/cpu.cfs_period_us").write_text("100000\n")
    assert usable_cores(tmp_path) == cores


def test_affinity_is_used_without_control_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    have_cores(monkeypatch, 3)
    assert usable_cores(tmp_path / "none") == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 5)
    assert usable_cores(tmp_path / "none") == 5


def test_usable_cores_are_at_most_the_cores_of_the_machine() -> None:
    assert 1 <= usable_cores() <= (os.cpu_count() or 1)


def test_invalid_setting_is_reported_in_one_line(tmp_path: Path) -> None:
    variables = os.environ | {
        "LIMELIGHT_MAX_BATCH": "0",
        "BENTOML_HOME": str(tmp_path),
        "BENTOML_DO_NOT_TRACK": "True",
    }
    process = subprocess.run(
        [sys.executable, "-m", "bentoml", "serve", "--port", "0"],
        cwd=REPOSITORY,
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        check=False,
    )
    assert process.returncode != 0
    (line,) = process.stdout.splitlines()
    assert line.startswith("limelight: LIMELIGHT_MAX_BATCH")
