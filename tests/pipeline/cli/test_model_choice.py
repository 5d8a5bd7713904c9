"""What `--model` means: a run, an artefact, or a model by its name."""

from pathlib import Path

import pytest

from limelight.artifact.manifest import MANIFEST_FILE
from limelight.artifact.store import find_artifacts, shipped_models
from pipeline.cli.model_choice import ModelChoice, choose_model, default_model
from pipeline.errors import PipelineError
from pipeline.runs.run_folder import CONFIG

SHIPPED = find_artifacts(shipped_models())


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def make_run(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / CONFIG).touch()
    return folder


def make_artefact(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / MANIFEST_FILE).touch()
    return folder


def test_paths_of_runs_artefacts_and_folders_of_versions_are_found() -> None:
    run = make_run(Path("runs/mine"))
    old, new = make_artefact(Path("models/dogs/9")), make_artefact(Path("models/dogs/10"))
    assert choose_model("runs/mine") == ModelChoice("run", run)
    assert choose_model("models/dogs/9") == ModelChoice("artefact", old)
    assert choose_model("models/dogs") == ModelChoice("artefact", new)


def test_name_means_a_shipped_model_or_one_of_the_given_models() -> None:
    dogs = make_artefact(Path("models/dogs/1"))
    assert choose_model("digits") == ModelChoice("artefact", SHIPPED["digits"])
    assert choose_model("dogs", Path("models")) == ModelChoice("artefact", dogs)
    with pytest.raises(PipelineError, match=r"no model 'digits'.*; models has dogs"):
        choose_model("digits", Path("models"))


def test_name_of_a_shipped_model_that_is_also_a_model_here_is_ambiguous() -> None:
    run = make_run(Path("digits"))
    with pytest.raises(PipelineError, match=r"say \./digits for the folder, or .*/digits for"):
        choose_model("digits")
    assert choose_model("./digits") == ModelChoice("run", run)
    assert choose_model("digits", shipped_models()).kind == "artefact"


def test_folder_here_that_is_no_model_does_not_make_a_name_ambiguous() -> None:
    Path("digits").mkdir()
    assert choose_model("digits").folder == SHIPPED["digits"]


def test_name_is_not_ambiguous_within_the_folder_of_models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(shipped_models())
    assert choose_model("digits").folder == SHIPPED["digits"]


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("cats", r"no model 'cats': .*the shipped models are cifar10, cifar10-small"),
        ("models/cats", r"no model 'models/cats'"),
        ("models", r"models is a folder of models: choose one of models/dogs"),
        ("runs", r"runs is a folder of models: choose one of runs/a, runs/b"),
        ("photos", r"photos is neither a run nor an artefact; the shipped models are"),
        ("runs/a/config.json", r"is a file: name the folder"),
    ],
)
def test_error_says_what_there_is(model: str, words: str) -> None:
    make_run(Path("runs/a"))
    make_run(Path("runs/b"))
    make_artefact(Path("models/dogs/1"))
    Path("photos").mkdir()
    with pytest.raises(PipelineError, match=words):
        choose_model(model)


def test_installation_without_shipped_models_finds_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.cli.model_choice.shipped_models", lambda: Path("nowhere"))
    run = make_run(Path("mine"))
    assert choose_model("mine") == ModelChoice("run", run)
    with pytest.raises(PipelineError, match=r"no model 'digits'.*no models are shipped here"):
        choose_model("digits")


def test_default_model_is_that_of_the_service() -> None:
    others = ["cifar10", "cifar10-small", "digits-small"]
    assert default_model() == (ModelChoice("artefact", SHIPPED["digits"]), others)
    dogs = make_artefact(Path("models/dogs/1"))
    assert default_model(Path("models")) == (ModelChoice("artefact", dogs), [])
    with pytest.raises(PipelineError, match="nowhere is not a folder"):
        default_model(Path("nowhere"))
