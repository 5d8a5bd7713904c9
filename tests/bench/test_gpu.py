"""`python -m bench.gpu`: what comes in parts, what fails, and the time that it takes."""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from bench.gpu import __main__ as command
from bench.gpu import packing
from bench.gpu.image_archive import read_archive, write_archive
from bench.gpu.numbered_parts import PartsError, read_parts, write_parts
from bench.gpu.results import Deadline, Results
from bench.gpu.scale import FULL, SMOKE
from bench.gpu.wheels import missing_packages

HERE = f"{sys.version_info.major}.{sys.version_info.minor}"
RUNTIME = "onnxruntime-gpu"
"""Stands for the runtime for CPUs that an isolated machine has; 256 MB, so that it is linked."""


def test_the_parts_take_fourteen_minutes_at_most() -> None:
    assert sum(FULL.limit_s.values()) <= 14 * 60
    assert set(FULL.limit_s) == set(SMOKE.limit_s) == set(command.PARTS)


def test_what_fails_is_written_down_and_the_rest_goes_on(tmp_path: Path) -> None:
    results = Results(tmp_path, "check")

    def fail() -> None:
        raise RuntimeError("no such kernel")

    assert results.attempt("first", fail) is None
    assert results.attempt("second", lambda: 3) == 3
    Results(tmp_path, "train").add("seconds", 1.5)
    found = json.loads((tmp_path / "results.json").read_text())
    assert found == {
        "check": {"first": {"failed": "RuntimeError: no such kernel"}},
        "train": {"seconds": 1.5},
    }
    assert results.failed


def test_a_part_that_takes_too_long_is_stopped_and_the_next_one_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(SMOKE.limit_s, "parity", 0.1)
    monkeypatch.setattr(sys, "argv", ["gpu", "--smoke", "--only", "parity", "--out", str(tmp_path)])
    assert command.main() == 1
    said = capsys.readouterr().out
    assert "parity: stopped, its time is over" in said
    assert "; parity failed" in said


def test_without_a_gpu_the_full_size_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu"])
    assert command.main() == 1
    assert "try --smoke" in capsys.readouterr().err


def test_a_deadline_runs_out() -> None:
    assert Deadline(100).left_s == pytest.approx(100, abs=1)
    assert Deadline(-1).left_s < 0


def files_of(folder: Path) -> dict[str, Path]:
    """Three files of 700, 0 and 300 kB."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    files = {}
    for name, size in (("data/a.bin", 700_000), ("b.bin", 0), ("c.bin", 300_000)):
        path = folder / Path(name).name
        path.write_bytes(rng.bytes(size))
        files[name] = path
    return files


def test_parts_in_any_order_give_the_files_again(tmp_path: Path) -> None:
    files = files_of(tmp_path / "in")
    parts = write_parts(files, tmp_path / "parts", part_bytes=300 << 10)
    assert len(parts) == 5
    assert all(part.stat().st_size <= 300 << 10 for part in parts)
    # The first and the last alone: what lies in both is there, and the rest names its parts.
    for part in parts[1:-1]:
        part.rename(part.with_suffix(".later"))
    first = read_parts(tmp_path / "parts", tmp_path / "out")
    assert first.missing == {"data/a.bin": [2, 3], "c.bin": [3, 4]}
    assert first.written == ["b.bin"]
    for part in parts[1:-1]:
        part.with_suffix(".later").rename(part)
    assert not read_parts(tmp_path / "parts", tmp_path / "out").missing
    for name, path in files.items():
        assert (tmp_path / "out" / name).read_bytes() == path.read_bytes()


def test_a_damaged_part_is_named(tmp_path: Path) -> None:
    parts = write_parts(files_of(tmp_path / "in"), tmp_path / "parts", part_bytes=300 << 10)
    content = bytearray(parts[2].read_bytes())
    content[-1] ^= 1
    parts[2].write_bytes(content)
    with pytest.raises(PartsError, match=r"part-003.bin is damaged: copy it again"):
        read_parts(tmp_path / "parts", tmp_path / "out")
    parts[2].write_bytes(b"not JSON")
    with pytest.raises(PartsError, match=r"part-003.bin is not a part"):
        read_parts(tmp_path / "parts", tmp_path / "out")


def test_parts_of_two_packs_and_names_that_lead_elsewhere_are_refused(tmp_path: Path) -> None:
    files = files_of(tmp_path / "in")
    write_parts(files, tmp_path / "parts" / "one", part_bytes=300 << 10)
    write_parts({"x": files["c.bin"]}, tmp_path / "parts" / "two", part_bytes=300 << 10)
    with pytest.raises(PartsError, match="different packs"):
        read_parts(tmp_path / "parts", tmp_path / "out")
    write_parts({"../x": files["c.bin"]}, tmp_path / "evil", part_bytes=300 << 10)
    with pytest.raises(PartsError, match="leads out of"):
        read_parts(tmp_path / "evil", tmp_path / "out")
    with pytest.raises(PartsError, match="holds no parts"):
        read_parts(tmp_path / "in", tmp_path / "out")
    with pytest.raises(PartsError, match="too small"):
        write_parts(files, tmp_path / "tiny", part_bytes=1000)


def test_a_data_set_is_the_same_after_packing(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = {
        "train_images": rng.integers(0, 256, (503, 6, 5, 3), np.uint8),
        "train_labels": rng.integers(0, 10, 503, np.uint8),
        "test_images": rng.integers(0, 256, (7, 6, 5, 1), np.uint8),
        "test_labels": rng.integers(0, 10, 7, np.uint8),
    }
    write_archive(arrays, tmp_path / "data.zip")
    found = read_archive(tmp_path / "data.zip")
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)


def test_data_sets_are_unpacked_to_where_the_cache_has_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arrays = {"train_images": np.arange(48, dtype=np.uint8).reshape(1, 4, 4, 3)}
    monkeypatch.setattr("pipeline.data.registry.load_cached", lambda name: arrays)
    (tmp_path / "wheels").mkdir()
    arguments = ["pack", "--for", "train", "--to", str(tmp_path / "parts")]
    assert packing.main([*arguments, "--wheels", str(tmp_path / "wheels")]) == 0
    assert packing.main(["unpack", str(tmp_path / "parts"), "--to", str(tmp_path / "to")]) == 0
    assert f"XDG_CACHE_HOME={tmp_path / 'to' / 'cache'}" in capsys.readouterr().out
    with np.load(tmp_path / "to" / "cache" / "limelight" / "cifar10.npz") as found:
        np.testing.assert_array_equal(found["train_images"], arrays["train_images"])
    assert packing.main(["unpack", str(tmp_path / "wheels"), "--to", str(tmp_path / "to")]) == 1
    assert "holds no parts" in capsys.readouterr().err


def test_training_needs_few_packages_and_serving_the_service_s_own() -> None:
    training = missing_packages(["train", "teach"], HERE)
    serving = missing_packages(["serve"], HERE)
    assert {"pydantic", "pydantic-core", "prometheus-client"} <= training.keys()
    assert not {"torch", "numpy", "onnxruntime-gpu", "bentoml"} & training.keys()
    assert len(training) < 12
    assert {"bentoml", "onnxruntime-gpu", "uvicorn", "pydantic"} <= serving.keys()
    assert not {"torch", "numpy"} & serving.keys()


def test_sizes_are_read_as_they_are_written() -> None:
    read = packing.parser().parse_args
    given = ["pack", "--to", "x", "--part-size"]
    assert [read([*given, it]).part_size for it in ("25M", "64k", "100000")] == [
        25 << 20, 64 << 10, 100_000,
    ]  # fmt: skip
    assert read(["pack", "--to", "x"]).part_size == 25 << 20
    with pytest.raises(SystemExit):
        read([*given, "25 parts"])
    with pytest.raises(argparse.ArgumentTypeError, match="say 25M"):
        packing._bytes("M")
