"""Folder of the metrics of one start."""

import tempfile
from pathlib import Path

import pytest

from service.process.metrics_folder import MetricsFolder, accept_full_disk


@pytest.fixture(autouse=True)
def _temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def test_each_start_has_a_private_folder_and_removes_those_that_nobody_uses(tmp_path: Path) -> None:
    first = MetricsFolder()
    left = tmp_path / "limelight-metrics-left"
    left.mkdir()
    (left / "lock").touch()
    (left / "counter_1.db").touch()
    other = tmp_path / "limelight-metrics-of-something-else"  # it has no lock of ours
    other.mkdir()
    second = MetricsFolder()
    assert sorted(tmp_path.iterdir()) == sorted([first.path, second.path, other])
    assert first.path.stat().st_mode & 0o777 == 0o700
    first.remove()
    second.remove()
    assert list(tmp_path.iterdir()) == [other]


@pytest.mark.parametrize("found", [None, Path.cwd()])
def test_a_full_disk_is_used_for_folders(
    found: Path | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def choose() -> str:
        if found is None:
            raise FileNotFoundError("No usable temporary directory found")
        return str(found)

    monkeypatch.setattr(tempfile, "gettempdir", choose)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "full"))
    accept_full_disk()
    assert tempfile.tempdir == str(tmp_path / "full")


def test_a_usable_folder_is_kept(tmp_path: Path) -> None:
    accept_full_disk()
    assert tempfile.gettempdir() == str(tmp_path)
