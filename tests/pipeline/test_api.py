"""Training from Python, as a notebook does it, and what is refused before images are read."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from subprocess import PIPE
from typing import Any

import numpy as np
import pytest
import torch
from onnxruntime import InferenceSession
from safetensors.torch import save_file

import pipeline
from limelight import load
from limelight.imaging.image_rule import ImageRule
from limelight.imaging.preprocessing import read_upload
from pipeline import export, finetune, lr_find, resume, train
from pipeline.cli.main import make_app
from pipeline.data.decoding import image_reader
from pipeline.errors import PipelineError
from pipeline.runs.choices import augmentation_of
from pipeline.runs.plan_from_choices import next_folder, plan_training
from pipeline.runs.run import Run, read_run
from pipeline.runs.run_config import read_config
from pipeline.runs.run_folder import CHECKPOINT, read_epochs
from pipeline.runs.run_plan import resume_run
from pipeline.training.recipe import Augmentation, Recipe
from tests.pipeline.cli.running import limelight
from tests.pipeline.data.test_registry import make_folder
from tests.serving_kit import REPOSITORY


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("photos") / "colours", images=12)


@pytest.fixture(scope="module")
def run(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("runs") / "first"
    return train(photos, out=folder, epochs=2, quiet=True)


SHIPPED = Path("zoo/cifar10").resolve()


def test_run_is_shown_in_a_line(run: Run) -> None:
    assert "validation_accuracy=" in repr(run)
    assert len(repr(run)) < 500


def test_public_names_are_functions() -> None:
    assert pipeline.__all__ == ["export", "finetune", "lr_find", "resume", "train"]
    assert all(callable(getattr(pipeline, name)) for name in pipeline.__all__)
    with pytest.raises(AttributeError, match="no attribute 'fit'"):
        _ = pipeline.fit


def test_trained_run_is_exported_and_answers(run: Run, photos: Path, tmp_path: Path) -> None:
    assert run.best.validation_accuracy == 1
    # The shorter side of the photos, which are 48 x 40.
    assert run.config.image_size == (40, 40)
    folder = export(run, to=tmp_path, name="colours", layercam=False, quiet=True)
    assert folder == tmp_path / "colours" / "1"
    assert load(folder).predict(photos / "red" / "3.png").label == "red"


def test_graph_alone_is_one_file_that_any_runtime_runs(
    run: Run, photos: Path, tmp_path: Path
) -> None:
    file = export(run, to=tmp_path / "new" / "colours.onnx", quiet=True)
    assert [path.name for path in file.parent.iterdir()] == ["colours.onnx"]
    session = InferenceSession(file, providers=["CPUExecutionProvider"])
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["classes"]) == ["blue", "red"]
    rule = ImageRule.model_validate_json(metadata["image"])
    images = [
        read_upload((photos / name / "3.png").read_bytes(), rule, max_pixels=9999).pixels_hwc
        for name in ("red", "blue", "blue")
    ]
    probabilities, logits = session.run(None, {"images": np.stack(images)})
    assert probabilities.argmax(1).tolist() == logits.argmax(1).tolist() == [1, 0, 0]
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-6)
    (tmp_path / "plain").touch()
    with pytest.raises(PipelineError, match="cannot be written"):
        export(run, to=tmp_path / "plain" / "colours.onnx", quiet=True)


def test_nothing_is_printed_if_quiet(photos: Path, tmp_path: Path, capfd: Any) -> None:
    finetuned = finetune(
        photos,
        pretrained=Path("zoo/cifar10"),
        out=tmp_path / "run",
        epochs=1,
        freeze_epochs=0,
        quiet=True,
    )
    assert finetuned.config.classes == ("blue", "red")
    assert finetuned.config.image.height == 32
    assert capfd.readouterr() == ("", "")


def test_suggested_rate_has_the_form_of_the_recipe() -> None:
    found = lr_find("digits8", steps=60, device="cpu", quiet=True)
    assert isinstance(found.rates, float)
    assert 0.003 < found.rates < 0.5
    assert len(found.curve.rates) == len(found.curve.losses)


def test_next_folder_of_the_working_folder_is_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "run").mkdir()
    monkeypatch.chdir(tmp_path / "run")
    assert next_folder(Path()) == tmp_path / "run-2"
    assert next_folder(Path("../run")) == Path("../run-2")


def test_finished_run_is_lengthened_as_a_new_run(run: Run) -> None:
    before = (run.folder / "checkpoint.safetensors").read_bytes()
    longer = resume(run.folder, epochs=1, quiet=True)
    assert longer.folder == run.folder.with_name("first-2")
    assert [epoch.epoch for epoch in read_epochs(longer.folder)] == [1]
    assert longer.config.pretrained == "first"
    assert longer.config.recipe == run.config.recipe.but(epochs=1)
    assert longer.config.data_sha256 == run.config.data_sha256
    assert (run.folder / "checkpoint.safetensors").read_bytes() == before
    with pytest.raises(PipelineError, match=r"is finished; .* --epochs N"):
        resume(run.folder, quiet=True)


def test_data_that_moved_can_be_named(run: Run, photos: Path, tmp_path: Path) -> None:
    moved, copy = tmp_path / "elsewhere", tmp_path / "copy"
    shutil.copytree(photos, moved)
    shutil.copytree(run.folder, copy)
    config = run.config.model_copy(update={"source": str(tmp_path / "gone")})
    (copy / "config.json").write_text(config.model_dump_json())
    with pytest.raises(PipelineError, match="no longer there: pass --data PATH"):
        _ = read_run(copy).data
    assert read_run(copy, moved_to=moved).data.sha256 == run.config.data_sha256
    assert resume(copy, epochs=1, data=moved, quiet=True).config.source == str(moved)
    (moved / "red" / "0.png").unlink()
    with pytest.raises(PipelineError, match="has changed since this run"):
        _ = read_run(copy, moved_to=moved).data
    with pytest.raises(PipelineError, match="has changed since this run"):
        export(run, tmp_path, data=moved, quiet=True)


def test_path_is_never_the_name_of_a_data_set(
    run: Run, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(photos, tmp_path / "digits8")
    monkeypatch.chdir(tmp_path)
    trained = train(Path("./digits8"), out=tmp_path / "run", epochs=1, quiet=True)
    assert trained.config.classes == ("blue", "red")
    assert trained.config.source == str(tmp_path / "digits8")
    assert read_run(run.folder, moved_to=Path("./digits8")).data.sha256 == run.config.data_sha256
    longer = resume(run.folder, epochs=1, data="./digits8", out=tmp_path / "longer", quiet=True)
    assert longer.config.source == str(tmp_path / "digits8")
    for copy in ("mnist", "digits8"):
        shutil.copytree(photos, tmp_path / copy, dirs_exist_ok=True)
        (tmp_path / copy / "red" / "0.png").unlink()
        done = limelight("report", str(run.folder), "--data", f"./{copy}", cwd=tmp_path)
        assert "has changed since this run" in done.stderr


def test_run_of_a_linked_csv_file_reads_its_data_again(
    run: Run, photos: Path, tmp_path: Path
) -> None:
    copy, tables, link = tmp_path / "copy", tmp_path / "tables", tmp_path / "copy" / "labels.csv"
    shutil.copytree(photos, copy)
    tables.mkdir()
    rows = (f"{path.relative_to(copy)},{path.parent.name}" for path in sorted(copy.glob("*/*.png")))
    (tables / "first.csv").write_text("\n".join(["path,label", *rows]))
    link.symlink_to(tables / "first.csv")
    config = plan_training(str(link), epochs=1).config
    assert config.source == str(link)
    assert config.read_data().sha256 == config.data_sha256 == run.config.data_sha256

    interrupted = tmp_path / "run"
    shutil.copytree(run.folder, interrupted)
    (interrupted / CHECKPOINT).unlink()
    resume_run(interrupted, torch.device("cpu"), moved_to=link)
    assert read_config(interrupted).read_data().sha256 == run.config.data_sha256


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"arch": "resnet-nope"}, "resnet-nope"),
        ({"arch": "torchvision:nope"}, "nope"),
        ({"track": ["wandb"]}, "--track 'wandb'"),
        ({"recipe": "nope"}, "no recipe 'nope'"),
        ({"settings": {"optimizer.speed": 9}}, "optimizer.speed"),
        ({"out": "full"}, "full is not empty"),
        ({"out": "full/file/run"}, "cannot be written"),
        ({"patience": -1}, "patience"),
    ],
    ids=str,
)
def test_wrong_options_are_refused_before_images_are_read(
    options: dict[str, Any],
    said: str,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    monkeypatch.chdir(tmp_path)

    def read(*_: object) -> None:
        raise AssertionError("images were read")

    monkeypatch.setattr(image_reader, "decode_missing", read)
    with pytest.raises(PipelineError, match=said):
        train(photos, quiet=True, **options)
    assert not any((tmp_path / "runs").glob("*"))


def test_failed_plan_leaves_no_folder(tmp_path: Path) -> None:
    (tmp_path / "data" / "only").mkdir(parents=True)
    with pytest.raises(PipelineError, match="at least two classes"):
        train(tmp_path / "data", out=tmp_path / "runs" / "new" / "run", quiet=True)
    assert [each.name for each in tmp_path.iterdir()] == ["data"]


@pytest.mark.parametrize("out", [None, "run", "a/run"])
def test_run_among_the_images_is_refused_and_leaves_nothing(
    out: str | None, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its folder would be a class of the images."""
    shutil.copytree(photos, tmp_path / "mine")
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.chdir(tmp_path / "mine")
    with pytest.raises(PipelineError, match=r"name a folder outside of .*mine with --out"):
        train(".", out=out, quiet=True)
    assert sorted(tmp_path.rglob("*")) == before


def test_folder_in_which_another_process_trains_is_refused(photos: Path, tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from pipeline.runs.run_claim import claimed\n"
        "with claimed(Path(sys.argv[1]), new=True): print('claimed', flush=True); input()"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "run")]
    with subprocess.Popen(command, stdin=PIPE, stdout=PIPE, text=True, cwd=REPOSITORY) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "claimed\n"
        with pytest.raises(PipelineError, match="another process trains in"):
            train(photos, out=tmp_path / "run", quiet=True)
        with pytest.raises(PipelineError, match="another process trains in"):
            resume(tmp_path / "run", quiet=True)
        other.communicate("\n")
    assert not (tmp_path / "run").exists()


def test_name_that_is_not_utf_8_is_refused(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="is not UTF-8; choose another --out"):
        train(photos, out=tmp_path / os.fsdecode(b"run\xff"), quiet=True)
    assert not any(tmp_path.iterdir())


def test_settings_change_another_architecture() -> None:
    plan = plan_training("digits8", arch="simple-cnn", settings={"network.norm": "group"})
    network = plan.config.recipe.network
    assert (network.architecture, network.norm) == ("simple-cnn", "group")


def test_options_without_an_effect_are_refused(run: Run, tmp_path: Path) -> None:
    for options in ({"name": "mine"}, {"fp16": True}, {"int8": True}):
        with pytest.raises(PipelineError, match="leave out --name, --fp16 and --int8"):
            export(run, tmp_path / "graph.onnx", **options)
    with pytest.raises(PipelineError, match="leave out --out"):
        resume(run.folder, out=tmp_path / "other", quiet=True)


def test_augmentation_has_three_strengths() -> None:
    recipe = Augmentation(flip="random", pad=4, cutout=8, affine=0.3)
    assert augmentation_of("none", recipe) == Augmentation()
    light = augmentation_of("light", recipe)
    assert light == Augmentation(flip="random", pad=4)
    strong = augmentation_of("strong", recipe)
    assert (strong.flip, strong.pad) == ("random", 4)
    assert min(strong.randaugment, strong.mixup, strong.cutmix) > 0
    # Mirrored digits are no digits.
    assert augmentation_of("strong", Augmentation()).flip == "none"


def test_settings_have_priority_over_augment() -> None:
    plan = plan_training("digits8", augment="strong", settings={"augmentation.randaugment": 0.2})
    strong = augmentation_of("strong", Recipe.load("digits8").augmentation)
    expected = strong.model_copy(update={"randaugment": 0.2})
    assert plan.config.recipe.augmentation == expected


def test_choices_reach_the_recipe(photos: Path, tmp_path: Path) -> None:
    run = train(
        photos,
        out=tmp_path / "run",
        epochs=2,
        batch_size=4,
        lr=0.01,
        augment="strong",
        ema=0.9,
        patience=5,
        class_weights=True,
        image_size=(24, 32),
        settings={"optimizer.kind": "adamw"},
        workers=1,
        quiet=True,
    )
    recipe = read_config(run.folder).recipe
    assert recipe == Recipe.load(
        "folder",
        epochs=2,
        batch_size=4,
        schedule__peak=0.01,
        augmentation={"flip": "random", "pad": 8, "randaugment": 0.5, "mixup": 0.2, "cutmix": 0.3},
        ema_decay=0.9,
        patience=5,
        class_weights=True,
        optimizer__kind="adamw",
    )
    assert (run.config.image.height, run.config.image.width) == (24, 32)


def test_published_backbone_starts_from_its_file(photos: Path, tmp_path: Path) -> None:
    timm = pytest.importorskip(
        "timm", reason="timm is not installed: pip install 'limelight[timm]'"
    )
    state = timm.create_model("test_resnet").state_dict()
    save_file(state, tmp_path / "own.safetensors")
    plan = plan_training(
        str(photos), arch="timm:test_resnet", weights=tmp_path / "own.safetensors", device="cpu"
    )
    # A backbone is shown the images as they are, up to 224 pixels.
    assert plan.config.image_size == (40, 40)
    assert plan.initial is not None
    assert (plan.config.recipe.network.weights or "").startswith("own.safetensors sha256:")
    started = plan.trainer().network.state_dict()
    assert all(torch.equal(started[name], value) for name, value in plan.initial.items())


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "cannot be read"), (b"nothing", "is no state dict")],
    ids=["missing", "damaged"],
)
def test_wrong_weights_are_refused_before_images_are_read(
    content: bytes | None,
    said: str,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if content is not None:
        (tmp_path / "w.pth").write_bytes(content)
    monkeypatch.setattr(image_reader, "decode_missing", None)
    with pytest.raises(PipelineError, match=said):
        train(
            photos,
            arch="torchvision:resnet18",
            weights=tmp_path / "w.pth",
            out=tmp_path / "run",
            quiet=True,
        )


def test_dry_run_decodes_and_writes_nothing(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(image_reader, "decode_missing", None)
    (photos / "red" / "notes.txt").touch()
    for command in (["train", str(photos)], ["finetune", "--from", str(SHIPPED), str(photos)]):
        make_app(command)([*command, "--dry-run", "--device", "cpu"], standalone_mode=False)
        said = capsys.readouterr()
        assert said.out == ""
        assert "2 classes, 16 images to fit, 3 to validate on, 5 to test (1 files skip" in said.err
        assert "classes: blue, red" in said.err
        assert said.err.endswith("nothing was trained or written\n")
    assert not list(tmp_path.iterdir())
