"""The command line: results, messages and exit statuses."""

import json
import os
import re
import shutil
import subprocess
from importlib import metadata
from pathlib import Path

import pytest

from limelight.artifact.store import load_artifact
from pipeline import api
from pipeline.cli.commands import export as export_command
from pipeline.cli.main import COMMANDS
from pipeline.errors import PipelineError, RunError
from pipeline.exporting import bento_store
from pipeline.runs.exported import rebuild_run
from pipeline.runs.run import Run
from tests.pipeline.cli.running import limelight, limelight_command, limelight_process
from tests.pipeline.data.test_registry import make_folder
from tests.serving_kit import REPOSITORY, write_artifact


def test_folder_of_photos_is_trained_and_exported(tmp_path: Path) -> None:
    make_folder(tmp_path / "Colours", images=40, size=(20, 18))
    trained = limelight(
        "train", "Colours", "--out", "run", "--epochs", "2", "--batch-size", "16",
        "--image-size", "16", "--no-report", cwd=tmp_path,
    )  # fmt: skip
    assert trained.returncode == 0, trained.stderr
    assert trained.stdout.strip() == "run"
    lines = (tmp_path / "run" / "epochs.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2]
    # From another working folder: the run has the absolute path of its images.
    (tmp_path / "elsewhere").mkdir()
    exported = limelight(
        "export", "../run", "--to", "../artifacts", "--no-layercam", cwd=tmp_path / "elsewhere"
    )
    assert exported.returncode == 0, exported.stderr
    assert exported.stdout.strip() == "../artifacts/colours/1"
    manifest = load_artifact(tmp_path / "artifacts" / "colours" / "1").manifest
    assert manifest.classes == ("blue", "red")
    assert f"accuracy {manifest.metrics.accuracy:.2%}" in exported.stderr
    assert (
        "mnist and fashion missing for the evaluation on out-of-distribution images"
        in exported.stderr
    )
    assert "limelight data fetch mnist; limelight data fetch fashion" in exported.stderr
    said = exported.stderr.splitlines()
    # What takes long is announced, before its result is.
    images = manifest.metrics.images
    compared = said.index(f"comparing each format with eager torch on {images} test images")
    assert any(line.startswith("calibrating on ") for line in said[:compared])
    assert any(f"of eager torch on {images} images" in line for line in said[compared:])
    with pytest.raises(RunError, match="does not know where its data is; export its run again"):
        rebuild_run(tmp_path / "artifacts" / "colours")


def test_training_into_a_folder_that_is_not_empty_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "precious").touch()
    result = limelight("train", "digits8", "--out", "run", cwd=tmp_path)
    assert result.returncode == 1
    assert "run is not empty; choose another --out" in result.stderr
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["precious"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("train", "mnist"), "run `limelight data fetch mnist`"),
        (("train", "nothing"), "neither a data set"),
        (("train",), "name the data to train on, or a run to --resume"),
        (("train", "digits8", "--recipe", "nothing"), "no recipe 'nothing'; there are:"),
        (("train", "digits8", "--arch", "nothing"), "no architecture 'nothing'; there are:"),
        (("train", "digits8", "--lr", "fast"), "a positive number is needed"),
        (("train", "digits8", "--set", "ema_decay=2"), "ema_decay: Input should be less than 1"),
        (("train", "digits8", "--set", "epochs=0"), "epochs: Input should be greater than"),
        (("train", "digits8", "--set", "name=7"), "name: Extra inputs are not permitted"),
        (("train", "digits8", "--set", "epochs.most=9"), "epochs is one value; set epochs itself"),
        (("train", "--resume", "nothing"), "is not a run"),
        (
            ("train", "digits8", "--resume", "nothing", "--epochs", "3", "--set", "x=1"),
            "the options that the run began with: leave out SOURCE, --epochs, --set, or begin",
        ),
        (("finetune", "digits8", "--from", "nothing"), "no model 'nothing': name a run folder"),
        (("train", "digits8", "--teacher", "nothing"), "no model 'nothing': name a run folder"),
        (("ladder", "nothing"), "no rung nothing; there are:"),
        (("ablate", "digits8", "--field", "nothing"), "nothing to ablate in 'nothing'"),
        (("report", "nothing"), "is not a run"),
        (("export", "nothing"), "nothing: neither a run nor an artefact"),
        (("data", "fetch", "imagenet"), "there are: mnist, cifar10"),
    ],
)
def test_error_is_one_line_and_exit_status_1(
    arguments: tuple[str, ...], words: str, tmp_path: Path
) -> None:
    result = limelight(*arguments, cwd=tmp_path)
    assert result.returncode == 1
    assert words in result.stderr
    assert "Traceback" not in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_process_has_the_same_status_and_message(tmp_path: Path) -> None:
    result = limelight_process("train", "nothing", cwd=tmp_path)
    here = limelight("train", "nothing", cwd=tmp_path)
    assert (result.returncode, result.stderr) == (1, here.stderr)
    assert here.returncode == 1


GROUPS = {
    "data": ("fetch", "list"),
    "text": ("train", "sample", "export", "report"),
    "models": ("list", "activate", "rollback", "label", "canary", "shadow", "finish", "watch"),
    "keys": ("new", "hash"),
}
LEAVES = [
    *((name,) for name in COMMANDS if name not in GROUPS),
    *((group, name) for group, names in GROUPS.items() for name in names),
]


@pytest.mark.parametrize("command", LEAVES)
def test_every_command_shows_an_example(command: tuple[str, ...], tmp_path: Path) -> None:
    result = limelight(*command, "--help", cwd=tmp_path)
    assert result.returncode == 0
    assert f"Example: limelight {' '.join(command)}" in result.stdout


def test_list_of_commands_does_not_import_torch(tmp_path: Path) -> None:
    command, environment = limelight_command("--help", cwd=tmp_path)
    shown = subprocess.run(
        [command[0], "-X", "importtime", *command[1:]],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    imported = {line.rpartition("|")[2].strip() for line in shown.stderr.splitlines()}
    assert "typer" in imported
    assert "torch" not in imported
    for name in COMMANDS:
        assert name in shown.stdout


def test_version_and_short_help_are_shown(tmp_path: Path) -> None:
    version = limelight("--version", cwd=tmp_path)
    assert (version.returncode, version.stdout) == (
        0,
        f"limelight {metadata.version('limelight')}\n",
    )
    for arguments in (("-h",), ("predict", "-h")):
        shown = limelight(*arguments, cwd=tmp_path)
        assert shown.returncode == 0
        assert "Usage: limelight" in shown.stdout


def test_unforeseen_failure_is_a_sentence_and_a_traceback_in_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)

    def fail(*_: object) -> None:
        raise RuntimeError("tensors [/x] do not match\nand more")

    monkeypatch.setattr("pipeline.evaluation.layers.layer_summary.summarise", fail)
    failed = limelight("summary", "resnet", cwd=tmp_path)
    assert failed.returncode == 1
    assert failed.stderr.startswith(
        "error: RuntimeError: tensors [/x] do not match. Nobody foresaw"
    )
    (file,) = tmp_path.glob("limelight-*.txt")
    assert str(file) in failed.stderr
    assert "Traceback" in file.read_text()
    assert len(failed.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("failure", "words"),
    [
        (
            PermissionError(13, "Permission denied", "/locked/run"),
            "/locked/run: Permission denied; choose another path, or change who may use this one",
        ),
        (
            OSError(28, "No space left on device"),
            "No space left on device; make room, or choose a path on another file system",
        ),
    ],
)
def test_failure_of_the_system_is_a_sentence_that_names_the_file_if_it_can(
    failure: OSError, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise failure

    monkeypatch.setattr("pipeline.evaluation.layers.layer_summary.summarise", fail)
    failed = limelight("summary", "resnet", cwd=tmp_path)
    assert failed.returncode == 1
    assert failed.stderr == f"error: {words}\n"


@pytest.mark.parametrize(
    "where", ["cli.main.make_app", "evaluation.layers.layer_summary.summarise"]
)
def test_interruption_is_one_word(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(f"pipeline.{where}", interrupt)
    stopped = limelight("summary", "resnet", cwd=tmp_path)
    assert (stopped.returncode, stopped.stderr) == (130, "interrupted\n")


def test_interrupted_training_says_how_to_continue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("pipeline.runs.training_display.TrainingBar.end_epoch", interrupt)
    options = ["digits8", "--epochs", "2", "--no-report", "--out"]
    stopped = limelight("train", *options, "my run", cwd=tmp_path)
    assert stopped.returncode == 130
    assert "to continue: limelight train --resume 'my run'\n" in stopped.stderr
    assert stopped.stderr.endswith("\ninterrupted\n")
    monkeypatch.undo()
    resumed = limelight("train", "--resume", "my run", "--no-report", cwd=tmp_path)
    assert (resumed.returncode, resumed.stdout) == (0, "my run\n")


def test_images_that_are_smaller_than_their_padding_are_rejected_with_a_remedy(
    tmp_path: Path,
) -> None:
    make_folder(tmp_path / "photos", images=20)
    failed = limelight("train", "photos", "--image-size", "8", cwd=tmp_path)
    assert failed.returncode == 1
    assert "8 x 8 pixels cannot be padded by 8: pass --set augmentation.pad=1" in failed.stderr


def test_lr_find_names_the_options_it_measured_with_and_makes_the_folder_of_its_plot(
    tmp_path: Path,
) -> None:
    command = "lr-find digits8 --steps 12 --batch-size 32 --seed 3 --out plots/rates.svg"
    done = limelight(*command.split(), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rate = done.stdout.strip()
    assert f"limelight train digits8 --batch-size 32 --seed 3 --lr {rate}" in done.stderr
    assert (tmp_path / "plots" / "rates.svg").is_file()


OUTPUTS = [
    ("train", "digits8", "--epochs", "1", "--no-report", "--out"),
    ("lr-find", "digits8", "--steps", "12", "--out"),
    ("ablate", "digits8", "--epochs", "1", "--out"),
    ("inspect", "run", "seven.png", "--out"),
    ("export", "run", "--to"),
    ("score", "pictures", "--model", "digits", "--out"),
    ("explain", "seven.png", "--model", "digits", "--out"),
]


@pytest.mark.parametrize("command", OUTPUTS, ids=lambda command: command[0])
def test_output_below_a_file_is_refused_in_a_sentence(
    command: tuple[str, ...], tmp_path: Path, digits8_run: Run
) -> None:
    here = {"run": digits8_run.folder, "digits": REPOSITORY / "zoo" / "digits"}
    for name, target in here.items():
        (tmp_path / name).symlink_to(target)
    (tmp_path / "pictures").mkdir()
    for place in (tmp_path, tmp_path / "pictures"):
        shutil.copy(REPOSITORY / "examples" / "seven.png", place)
    (tmp_path / "file").touch()
    failed = limelight(*command, "file/out.png", cwd=tmp_path)
    assert failed.returncode == 1
    *_, sentence = failed.stderr.splitlines()
    assert re.match(r"error: .*\bfile\b.*[:;] .*(choose|fix)", sentence)
    assert "Nobody foresaw" not in sentence


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
@pytest.mark.parametrize("command", ["train", "ablate"])
def test_output_in_a_read_only_folder_is_refused_in_a_sentence(
    command: str, tmp_path: Path
) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    failed = limelight(command, "digits8", "--epochs", "1", "--out", "locked/out", cwd=tmp_path)
    assert failed.returncode == 1
    *_, sentence = failed.stderr.splitlines()
    assert re.match("error: locked/out.*: Permission denied; choose another path", sentence)


def test_folder_of_a_class_that_is_not_utf_8_is_named(tmp_path: Path) -> None:
    make_folder(tmp_path / "photos", images=20)
    (tmp_path / "photos" / "red").rename(tmp_path / "photos" / os.fsdecode(b"r\xff"))
    failed = limelight("train", "photos", "--out", "run", cwd=tmp_path)
    folder = tmp_path / "photos" / r"r\xff"
    assert failed.stderr == f"error: {folder}: this name is not UTF-8; rename it\n"
    assert not (tmp_path / "run").exists()


def test_paths_that_are_not_utf_8_are_printed_as_they_are(tmp_path: Path) -> None:
    command, environment = limelight_command("summary", "digits8", cwd=tmp_path)
    script = "from pipeline.cli import main; main._load = lambda _: print(chr(0xdcff)); main.main()"
    done = subprocess.run(
        [command[0], "-c", script, "summary"],
        cwd=tmp_path,
        env=environment | {"PYTHONIOENCODING": "utf-8:strict"},
        capture_output=True,
        check=False,
    )
    assert done.stdout == b"\xff\n"


def test_summary_of_a_run_and_of_its_artefact_is_that_of_the_recipe(
    digits8_run: Run, artifact_folder: Path, tmp_path: Path
) -> None:
    recipe = limelight("summary", "digits8", cwd=tmp_path).stdout
    for model in (digits8_run.folder, artifact_folder, artifact_folder.parent):
        assert limelight("summary", str(model), cwd=tmp_path).stdout == recipe
    digits = limelight("summary", "digits", cwd=tmp_path)
    assert "122,370" in digits.stdout, digits.stderr


def test_name_of_a_recipe_that_is_also_a_run_here_means_the_recipe(
    digits8_run: Run, tmp_path: Path
) -> None:
    (tmp_path / "cifar10").symlink_to(digits8_run.folder)
    recipe = limelight("summary", "cifar10", cwd=tmp_path)
    assert "1,121,354" in recipe.stdout
    assert "cifar10 is a recipe or an architecture; for the folder, say ./cifar10" in recipe.stderr
    folder = limelight("summary", "./cifar10", cwd=tmp_path)
    assert folder.stdout == limelight("summary", "digits8", cwd=tmp_path).stdout


@pytest.mark.parametrize(
    ("arguments", "cell"),
    [
        (("data", "list"), "limelight data fetch fashion"),
        (("summary", "torchvision:resnet18"), "features.7.0.downsample.0"),
    ],
    ids=["data", "summary"],
)
def test_table_in_a_pipe_is_whole(arguments: tuple[str, ...], cell: str, tmp_path: Path) -> None:
    command, environment = limelight_command(*arguments, cwd=tmp_path)
    environment |= {"COLUMNS": "60", "FORCE_COLOR": "1"}
    printed = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    ).stdout
    assert cell in printed
    assert "…" not in printed


def test_export_goes_into_bentomls_store_if_asked_for(
    tmp_path: Path,
    digits8_run: Run,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    artifact, stored = write_artifact(tmp_path), []
    monkeypatch.setattr(api, "export", lambda *arguments, **options: artifact)

    def put(folder: Path) -> str:
        stored.append(folder)
        return "colours:1"

    monkeypatch.setattr(export_command, "put_in_store", put)
    export_command.export(digits8_run.folder, to=tmp_path, bento=True)
    assert stored == [artifact]
    assert "LIMELIGHT_MODELS=bento:colours:1 bentoml serve" in capsys.readouterr().err
    export_command.export(digits8_run.folder, to=tmp_path)
    assert stored == [artifact]
    with pytest.raises(PipelineError, match="name a folder with --to"):
        export_command.export(digits8_run.folder, to=tmp_path / "a.onnx", bento=True)
    monkeypatch.setattr(bento_store, "find_spec", lambda name: None)
    with pytest.raises(PipelineError, match=r"pip install 'limelight\[serve\]'"):
        export_command.export(digits8_run.folder, to=tmp_path, bento=True)
