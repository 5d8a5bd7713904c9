"""`limelight predict` and `explain`, with the models that ship and with a service."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.cli.answerers import matching
from pipeline.errors import PipelineError
from service.settings import Settings
from tests.pipeline.cli.running import limelight
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
    assert "by the model digits; there is also cifar10: choose with --model" in done.stderr
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
        Settings().models, folder / "server", LIMELIGHT_DEFAULT_MODEL="digits"
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


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["predict", "nothing.png"], "no such file"),
        (["predict", "."], "is a folder: say './*.png', or limelight score"),
        (["predict", "two.png", "--model", "dogs"], "there is no model 'dogs'"),
        (["predict", "two.png", "--models", "empty"], "empty"),
        (["predict", "two.png", "--url", "http://127.0.0.1:9"], "no answer from"),
        (["predict", "two.png", "--url", "http://127.0.0.1:9", "--models", "x"], "leave out"),
        (["explain", "two.png", "seven.png", "-o", "map.png"], "name a folder"),
        (["explain", "two.png", "-o", "x.png", "--target", "cat"], "no class 'cat'"),
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
    assert matching([str(tmp_path / "a[1].png")]) == [tmp_path / "a[1].png"]
    assert matching([str(tmp_path / "a*.png"), str(tmp_path / "a1.png")]) == [
        tmp_path / "a1.png",
        tmp_path / "a[1].png",
    ]
    with pytest.raises(PipelineError, match="no such file"):
        matching([str(tmp_path / "b*.png")])
