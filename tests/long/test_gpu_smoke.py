"""`python -m bench.gpu` in miniature, on a machine that has only what it must have.

`make test-gpu` runs this; it takes minutes on two cores.
"""

import json
import sys
from pathlib import Path

import pytest

from bench.gpu import __main__ as command
from bench.gpu import packing
from bench.gpu.numbered_parts import read_parts
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
