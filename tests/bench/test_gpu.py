"""`python -m bench.gpu`: all of it in miniature, on a machine that has only what it must have."""

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
from bench.gpu.wheels import NEEDED, THERE, closure, missing_packages
from pipeline.runs.run import read_run
from tests.isolated import link_packages, make_wheels, run_isolated

HERE = f"{sys.version_info.major}.{sys.version_info.minor}"
RUNTIME = "onnxruntime-gpu"
"""Stands for the runtime for CPUs that an isolated machine has; 256 MB, so that it is linked."""


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a smoke run in an isolated Python, of packages that came in parts."""
    folder = tmp_path_factory.mktemp("gpu")
    link_packages(closure([*THERE, RUNTIME, "pip"], HERE), folder / "there")
    needed = missing_packages(NEEDED, HERE)
    make_wheels(needed.keys() - closure([RUNTIME], HERE), folder / "wheels")
    arguments = ["pack", "--to", str(folder / "parts"), "--part-size", "2M", "--for", "serve"]
    assert packing.main([*arguments, "--wheels", str(folder / "wheels")]) == 0
    there = folder / "there"
    unpacked = run_isolated(
        *("bench.gpu", "unpack", str(folder / "parts"), "--to", str(folder / "got")),
        packages=there,
        variables={},
    )
    assert unpacked.returncode == 0, unpacked.stderr
    assert "not complete" not in unpacked.stdout
    export = unpacked.stdout.splitlines()[-1].removeprefix("export ")
    variables = dict(pair.split("=", 1) for pair in export.split())
    assert variables["PYTHONPATH"] == str(folder / "got" / "site")
    done = run_isolated(
        *("bench.gpu", "--smoke", "--out", str(folder / "out")), packages=there, variables=variables
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return folder / "out"


@pytest.mark.timeout(900)
def test_every_part_runs_on_a_machine_that_has_only_what_was_brought(smoke: Path) -> None:
    found = json.loads((smoke / "results.json").read_text())
    assert list(found) == list(command.PARTS)
    assert found["check"]["machine"]["card"] is None
    assert found["check"]["missing"] == []
    assert found["check"]["training"]["compiled, ms"] > 0
    assert found["check"]["inference"]["provider"] == "CPU"
    bound = [it["way"] for it in found["serve"]["digits, forward passes on CPU"]["images a second"]]
    assert {"engine, float32", "run, float16", "bound, float32"} <= set(bound)
    assert "is demanded" in found["serve"]["digits on TensorRT"]
    formats = {"model.onnx", "model.ts", "model.pt2", "model.layercam.onnx", "model.fp16.onnx"}
    assert {f"digits, {file}" for file in formats} == set(found["parity"])
    assert all(it["top1_disagreements"] == 0 for it in found["parity"].values())


@pytest.mark.timeout(900)
def test_marks_are_reached_on_validation_images_and_published_of_the_test_set(smoke: Path) -> None:
    found = json.loads((smoke / "results.json").read_text())["train"]
    tried = {name: it for name, it in found.items() if name.endswith("on validation images")}
    assert [it["reached"] for it in tried.values()] == [False, False, True]
    assert found["101%"] == "no candidate reached it on validation images"
    read = {name: it for name, it in found.items() if name.endswith("on the test set")}
    assert list(read) == ["5%, 1 epoch, on the test set"]
    published = read["5%, 1 epoch, on the test set"]
    assert [run["seed"] for run in published["runs"]] == [0, 1]
    mean = sum(run["accuracy"] for run in published["runs"]) / 2
    assert published["mean accuracy"] == pytest.approx(mean)
    assert published["mean accuracy"] > 0.2  # of ten classes; guessing gives 0.1


@pytest.mark.timeout(900)
def test_trained_runs_can_be_carried_away_and_read(smoke: Path, tmp_path: Path) -> None:
    unpacked = read_parts(smoke / "runs-packed", tmp_path)
    assert not unpacked.missing
    teacher, pupil = (read_run(tmp_path / "runs" / it) for it in ("digits8-teacher", "small"))
    assert [each.name.rpartition("/")[2] for each in pupil.config.teachers] == ["digits8-teacher"]
    found = json.loads((smoke / "results.json").read_text())["teach"]
    for run, name in ((teacher, "digits8-teacher"), (pupil, "small")):
        assert run.best.validation_accuracy == found[name]["validation accuracy"]
        assert run.config.recipe.epochs == found[name]["epochs"]


@pytest.mark.timeout(900)
def test_the_service_is_loaded_with_images_and_batches(smoke: Path) -> None:
    found = json.loads((smoke / "results.json").read_text())["serve"]
    loads = {name: it for name, it in found.items() if name.endswith("connections")}
    assert list(loads) == [
        f"digits, {kind}, {connections} connections"
        for kind in ("single images", "requests of 2 images")
        for connections in (1, 2)
    ]
    for load in loads.values():
        assert set(load["answers"]) == {"200"}
        assert 0 < load["p50, ms"] <= load["p99, ms"]
        assert load["share of session.run's best"] > 0


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
