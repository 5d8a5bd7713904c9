"""`limelight predict` and `explain`, with the models that ship and with a service."""

import copy
import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from limelight.artifact.store import load_artifact
from limelight.errors import UnsupportedMethod
from pipeline.cli.answerers import matching
from pipeline.errors import PipelineError, RunError
from pipeline.runs.run import Run
from pipeline.runs.run_classifier import classifier_of
from service.settings import Settings
from tests.pipeline.cli.running import limelight, limelight_command
from tests.serving_kit import REPOSITORY, bentoml_serve

EXAMPLES = REPOSITORY / "examples"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("seven.png", "two.png", "cat.png"):
        shutil.copy(EXAMPLES / name, tmp_path)
    return tmp_path


def test_predict_prints_a_table_of_classes(folder: Path) -> None:
    done = limelight("predict", "seven.png", "two.png", "--model", "digits", cwd=folder)
    assert done.returncode == 0, done.stderr
    rows = [line.split("│")[1:4] for line in done.stdout.splitlines() if "│" in line]
    assert [[cell.strip() for cell in row][:2] for row in rows] == [
        ["seven.png", "7"],
        ["two.png", "2"],
    ]


def test_model_that_nobody_chose_is_named_with_the_others(folder: Path) -> None:
    done = limelight("predict", "cat.png", cwd=folder)
    others = "cifar10, cifar10-small, digits-small"
    assert f"by the model digits; there is also {others}: choose with --model" in done.stderr
    chosen = limelight("predict", "cat.png", "--model", "cifar10", cwd=folder)
    assert "there is also" not in chosen.stderr


def test_doubtful_predictions_are_marked(folder: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (28, 28), np.uint8)
    Image.fromarray(noise).save(folder / "noise.png")
    done = limelight("predict", "seven.png", "noise.png", "--model", "digits", cwd=folder)
    seven_line, noise_line = (line for line in done.stdout.splitlines() if ".png" in line)
    assert "out of distribution" in noise_line
    assert "out of" not in seven_line
    explained = limelight("explain", "noise.png", "-o", "map.png", "--model", "digits", cwd=folder)
    assert "out of distribution" in explained.stderr


def test_bad_file_is_named_and_the_others_are_predicted(folder: Path) -> None:
    (folder / "note.png").write_text("no image")
    done = limelight("predict", "*.png", "--model", "digits", "--json", cwd=folder)
    assert done.returncode == 1
    answers = {line["file"]: line for line in map(json.loads, done.stdout.splitlines())}
    assert list(answers) == ["cat.png", "note.png", "seven.png", "two.png"]
    assert answers["seven.png"]["label"] == "7"
    assert answers["note.png"]["error"]["code"] == "unsupported_media_type"
    assert "note.png" in done.stderr


def test_service_and_local_models_give_the_same_predictions(folder: Path) -> None:
    command = ["predict", "cat.png", "two.png", "--model", "cifar10", "--json"]
    here = limelight(*command, cwd=folder)
    with bentoml_serve(
        Settings().models,
        folder / "server",
        LIMELIGHT_DEFAULT_MODEL="digits",
        LIMELIGHT_WORKERS="1",
    ) as server:
        there = limelight(*command, "--url", server.url, cwd=folder)
    mine, theirs = (
        [json.loads(line) for line in done.stdout.splitlines()] for done in (here, there)
    )
    assert [each["label"] for each in mine] == [each["label"] for each in theirs]
    assert mine[0]["label"] == "cat"
    # The number of threads changes the last digits.
    assert mine[0]["confidence"] == pytest.approx(theirs[0]["confidence"], abs=1e-5)


def test_explain_writes_an_overlay(folder: Path) -> None:
    done = limelight(
        "explain", "cat.png", "-o", "cat-overlay.png", "--model", "cifar10", cwd=folder
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "cat-overlay.png"
    plain, tinted = (
        np.asarray(Image.open(folder / name).convert("RGB"), np.float64)
        for name in ("cat.png", "cat-overlay.png")
    )
    assert plain.shape == tinted.shape
    # Only the centre square is seen by the network.
    np.testing.assert_array_equal(plain[:, :70], tinted[:, :70])
    assert np.abs(plain - tinted).mean() > 5


def test_several_overlays_are_written_to_a_folder(folder: Path) -> None:
    done = limelight("explain", "seven.png", "two.png", "-o", "maps", "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert sorted(file.name for file in (folder / "maps").iterdir()) == ["seven.png", "two.png"]
    assert [json.loads(line)["cam"]["target"] for line in done.stdout.splitlines()] == ["7", "2"]


@pytest.mark.parametrize("out", ["cat.png", "../pictures/cat.png", "."])
def test_picture_does_not_replace_the_image(folder: Path, out: str) -> None:
    (folder / "pictures").mkdir(exist_ok=True)
    shutil.copy(folder / "cat.png", folder / "pictures")
    before = (folder / "pictures" / "cat.png").read_bytes()
    done = limelight("explain", "cat.png", "-o", out, "--model", "cifar10", cwd=folder / "pictures")
    assert done.returncode == 1
    assert "name another" in done.stderr
    assert (folder / "pictures" / "cat.png").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["predict", "nothing.png"], "no such file"),
        (["predict", "."], "is a folder: say ./*, or limelight score"),
        (["predict", "two.png", "--model", "dogs"], "there is no model 'dogs'"),
        (["predict", "two.png", "--models", "empty"], "empty"),
        (["predict", "two.png", "--url", "http://127.0.0.1:9"], "no answer from"),
        (["predict", "two.png", "--url", "http://127.0.0.1:9", "--models", "x"], "leave out"),
        (["explain", "two.png", "seven.png", "-o", "map.png"], "name a folder"),
        (["explain", "two.png", "-o", "x.png", "--target", "cat"], "no class 'cat'"),
        (["explain", "two.png", "-o", "x.tiff"], "x.tiff: a picture is .png, .jpg, .jpeg, .webp"),
    ],
)
def test_error_is_one_line_and_exit_status_1(
    folder: Path, arguments: list[str], words: str
) -> None:
    (folder / "empty").mkdir()
    done = limelight(*arguments, cwd=folder)
    assert done.returncode == 1
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_existing_names_are_not_patterns(tmp_path: Path) -> None:
    for name in ("a[1].png", "a1.png"):
        (tmp_path / name).touch()
    assert matching([str(tmp_path / "a[1].png")]) == ([tmp_path / "a[1].png"], [])
    both = [tmp_path / "a1.png", tmp_path / "a[1].png"]
    assert matching([str(tmp_path / "a*.png"), str(tmp_path / "a1.png")]) == (both, [])
    with pytest.raises(PipelineError, match="no such file"):
        matching([str(tmp_path / "b*.png")])


@pytest.mark.parametrize("command", [["predict"], ["explain", "-o", "maps"]])
def test_files_beside_folders_and_broken_links_are_answered(
    command: list[str], folder: Path
) -> None:
    (folder / "my photos").mkdir()
    (folder / "gone.png").symlink_to(folder / "nowhere")
    names = ["gone.png", "my photos/", "seven.png", "b*.png"]
    done = limelight(*command, *names, "--model", "digits", cwd=folder)
    assert done.returncode == 1
    assert "seven" in done.stdout
    assert [line for line in done.stderr.splitlines() if line.startswith("error: ")] == [
        "error: gone.png: there is no such file",
        "error: my photos: this is a folder: say 'my photos'/*, or limelight score",
        "error: b*.png: there is no such file",
    ]


@pytest.fixture
def run_and_artefact(digits8_run: Run, artifact_folder: Path, tmp_path: Path) -> tuple[str, str]:
    """The paths of a run and of its export, where the pictures of digits are."""
    images = digits8_run.data.dataset.test.images
    for number, pixels_hwc in enumerate(images[:4]):
        Image.fromarray(pixels_hwc[:, :, 0]).save(tmp_path / f"{number}.png")
    (tmp_path / "my runs").symlink_to(digits8_run.folder.parent)
    return f"my runs/{digits8_run.folder.name}", str(artifact_folder)


def answers(*arguments: str, cwd: Path) -> list[dict[str, Any]]:
    done = limelight(*arguments, "--json", cwd=cwd)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_run_predicts_what_its_export_does_before_calibration(
    run_and_artefact: tuple[str, str], tmp_path: Path
) -> None:
    run, artefact = run_and_artefact
    files = [f"{number}.png" for number in range(4)]
    mine = answers("predict", *files, "--model", run, cwd=tmp_path)
    exported = answers("predict", *files, "--model", artefact, cwd=tmp_path)
    assert [each["label"] for each in mine] == [each["label"] for each in exported]
    assert {(each["model"], each["version"]) for each in mine} == {("digits8", "run")}
    assert {each["abstain"] for each in mine} == {None}
    assert mine[0].keys() == exported[0].keys()
    calibration = load_artifact(Path(artefact)).manifest.calibration
    for uncalibrated, calibrated in zip(mine, exported, strict=True):
        first, second = (
            -np.log([score["probability"] for score in each["scores"][:2]])
            for each in (uncalibrated, calibrated)
        )
        scaled = first**calibration.exponent / calibration.temperature
        assert np.ptp(second) == pytest.approx(np.ptp(scaled), rel=1e-3)


def test_prediction_of_a_run_says_what_it_lacks(
    run_and_artefact: tuple[str, str], tmp_path: Path
) -> None:
    run, _ = run_and_artefact
    done = limelight("predict", "0.png", "--model", run, cwd=tmp_path)
    (said,) = filter(None, done.stderr.splitlines())
    assert said == (
        f"{run} is a run, so the confidences are not calibrated and no answer is flagged as "
        f"doubtful; limelight export '{run}' adds both, and checks the maps"
    )


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--method", "contrast"],
        ["--method", "layercam"],
        ["--method", "occlusion"],
        ["--method", "scorecam"],
        ["--target", "3"],
    ],
    ids=" ".join,
)
def test_maps_of_a_run_are_those_of_its_export(
    run_and_artefact: tuple[str, str], tmp_path: Path, options: list[str]
) -> None:
    (mine,), (exported,) = (
        answers("explain", "1.png", "-o", "map.png", "--model", model, *options, cwd=tmp_path)
        for model in run_and_artefact
    )
    assert mine["cam"].keys() == exported["cam"].keys()
    assert mine["cam"]["target"] == exported["cam"]["target"]
    np.testing.assert_allclose(mine["cam"]["values"], exported["cam"]["values"], atol=1e-4)


def test_run_has_no_layercam_maps_if_its_network_allows_none(
    digits8_run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("models.serving_graph.MOST_CLASSES", 9)
    classifier = classifier_of(digits8_run)
    with pytest.raises(UnsupportedMethod, match="digits8 cannot explain by layercam: use one of"):
        classifier.explain(EXAMPLES / "seven.png", method="layercam")


def test_run_whose_values_are_not_finite_is_refused(digits8_run: Run) -> None:
    network = copy.deepcopy(digits8_run.network)
    torch.nn.init.constant_(network.head.get_parameter("linear.weight"), float("nan"))
    with pytest.raises(RunError, match="values that are not finite: train again with a lower --lr"):
        classifier_of(replace(digits8_run, network=network)).predict(EXAMPLES / "seven.png")


def test_table_in_a_pipe_cuts_no_name(folder: Path) -> None:
    names = [f"{'x' * 150}-{number}.png" for number in range(2)]
    for name in names:
        shutil.copy(folder / "two.png", folder / name)
    command, environment = limelight_command("predict", *names, "--model", "digits", cwd=folder)
    environment |= {"COLUMNS": "80", "FORCE_COLOR": "1"}
    printed = subprocess.run(command, cwd=folder, env=environment, capture_output=True, check=True)
    for name in names:
        assert name in printed.stdout.decode()


@pytest.mark.parametrize(
    ("picture", "form"),
    [("x.jpg", "JPEG"), ("x.JPEG", "JPEG"), ("x.webp", "WEBP"), ("new/x.png", "PNG")],
)
def test_suffix_of_the_picture_is_its_format(folder: Path, picture: str, form: str) -> None:
    done = limelight("explain", "two.png", "-o", picture, "--model", "digits", cwd=folder)
    assert done.stdout.strip() == picture
    with Image.open(folder / picture) as written, Image.open(folder / "two.png") as upload:
        assert (written.format, written.size) == (form, upload.size)


def test_output_without_a_suffix_is_a_folder(folder: Path) -> None:
    done = limelight("explain", "two.png", "-o", "maps", "--model", "digits", cwd=folder)
    assert done.stdout.strip() == "maps/two.png"
    (folder / "maps.v1").mkdir()
    done = limelight("explain", "two.png", "-o", "maps.v1", "--model", "digits", cwd=folder)
    assert done.stdout.strip() == "maps.v1/two.png"


def test_picture_that_a_format_cannot_hold_is_an_error_of_its_file(folder: Path) -> None:
    Image.new("L", (17_000, 8)).save(folder / "wide.png")
    done = limelight("explain", "wide.png", "-o", "x.webp", "--model", "digits", cwd=folder)
    assert done.returncode == 1
    assert "wide.png: x.webp: encoding error" in done.stderr
