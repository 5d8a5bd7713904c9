"""Fine-tuning: frozen layers, rates, initial weights and the check of the validation split."""

import shutil
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.model_selection import train_test_split

from limelight.artifact.store import load_artifact
from models import NetworkOptions, build_network
from pipeline.data.registry import Split, load_dataset
from pipeline.errors import RunError
from pipeline.exporting.export import export
from pipeline.exporting.formats import WEIGHTS
from pipeline.runs.pretrained import read_pretrained
from pipeline.runs.run import Run, read_run
from pipeline.training.recipe import Recipe
from tests.pipeline.cli.running import limelight
from tests.pipeline.training.small_trainings import small_trainer

STATISTICS = ("running_mean", "running_var")


def _features_and_head(weights: dict[str, torch.Tensor]) -> tuple[set[str], set[str]]:
    names = {name for name in weights if not name.endswith("num_batches_tracked")}
    head = {name for name in names if name.startswith("head.")}
    return names - head, head


def _changed(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    return {name for name, value in before.items() if not torch.equal(value, after[name])}


def test_frozen_features_keep_weights_and_statistics() -> None:
    recipe = Recipe.load("digits8", epochs=1, freeze_epochs=1)
    trainer = small_trainer(recipe)
    before = trainer.weights()
    features, head = _features_and_head(before)
    list(trainer.run_epoch())
    frozen = trainer.weights()
    assert _changed(before, frozen) == head
    list(trainer.run_epoch())
    assert features <= _changed(frozen, trainer.weights())


@pytest.mark.parametrize("bn_freeze", [True, False])
def test_bn_freeze_keeps_the_statistics_of_trained_features(bn_freeze: bool) -> None:
    trainer = small_trainer(Recipe.load("digits8", epochs=1, bn_freeze=bn_freeze))
    before = trainer.weights()
    list(trainer.run_epoch())
    changed = _changed(before, trainer.weights())
    moved = {name for name in changed if name.endswith(STATISTICS)}
    assert bool(moved) is not bn_freeze
    assert "features.0.0.weight" in changed


def test_each_layer_group_has_its_own_rate() -> None:
    # One step of plain SGD changes a weight by rate times gradient.
    def first_step(peak: tuple[float, ...]) -> dict[str, torch.Tensor]:
        schedule = {"kind": "constant", "peak": peak, "momentum": 0.0}
        recipe = Recipe.load("digits8", schedule=schedule, optimizer={"weight_decay": 0.0})
        trainer = small_trainer(recipe)
        before = trainer.weights()
        next(trainer.run_epoch())
        after = trainer.weights()
        return {name: after[name] - value for name, value in before.items()}

    even, rising = first_step((0.1,) * 3), first_step((0.001, 0.1))
    for name, share in (("features.0.0.weight", 0.01), ("head.linear.weight", 1.0)):
        torch.testing.assert_close(rising[name], share * even[name], rtol=1e-3, atol=1e-7)
    # The group between has the geometric mean of the two rates.
    late = "features.8.branch.1.0.weight"
    torch.testing.assert_close(rising[late], 0.1 * even[late], rtol=1e-3, atol=1e-7)


def test_head_and_then_all_layers_have_a_schedule_each() -> None:
    trainer = small_trainer(Recipe.load("digits8", epochs=2, freeze_epochs=1))
    rates = [batch.learning_rate for _ in range(3) for batch in trainer.run_epoch()]
    per_epoch = trainer.steps_per_epoch
    for cycle in (rates[:per_epoch], rates[per_epoch:]):
        assert cycle[0] == pytest.approx(0.01)
        assert max(cycle) == pytest.approx(0.1, rel=0.05)
        assert cycle[-1] == pytest.approx(1e-5)


def test_run_and_its_artefact_give_the_same_pretrained_model(
    digits8_run: Run, artifact_folder: Path
) -> None:
    by_run, by_artifact = read_pretrained(digits8_run.folder), read_pretrained(artifact_folder)
    newest = read_pretrained(artifact_folder.parent)
    assert by_artifact.network == by_run.network == digits8_run.config.recipe.network
    assert by_artifact.normalisation == by_run.normalisation
    assert by_artifact.image == by_run.image
    assert newest.name == by_artifact.name == "digits8/1"
    assert by_artifact.classes == by_run.classes == digits8_run.config.classes
    assert by_artifact.data_sha256 == by_run.data_sha256 == digits8_run.config.data_sha256
    split = by_run.split_seed, by_run.validation
    assert (by_artifact.split_seed, by_artifact.validation) == split
    assert by_artifact.weights.keys() == by_run.weights.keys()
    for name, value in by_run.weights.items():
        assert torch.equal(by_artifact.weights[name], value)


def test_head_is_kept_for_the_same_classes_in_another_unicode_form(digits8_run: Run) -> None:
    pretrained = replace(read_pretrained(digits8_run.folder), classes=("Ka\u0308se", "Brot"))
    assert pretrained.weights_for(("Käse", "Brot")) == pretrained.weights
    assert pretrained.weights_for(("Brot", "Käse")).keys() < pretrained.weights.keys()


def test_network_of_other_classes_gets_a_new_head(digits8_run: Run) -> None:
    pretrained = read_pretrained(digits8_run.folder)
    names = set(pretrained.weights)
    assert set(pretrained.weights_for(pretrained.classes)) == names
    features = {name for name in names if not name.startswith("head.")}
    assert features < names
    assert set(pretrained.weights_for(pretrained.classes[::-1])) == features
    initial = pretrained.weights_for(("odd", "even"))
    trainer = small_trainer(digits8_run.config.recipe, initial=initial)
    begun = trainer.weights()
    assert _changed(dict(pretrained.weights), begun) == names - features


def test_validating_on_training_images_of_the_pretrained_model_is_rejected(
    digits8_run: Run,
) -> None:
    pretrained = read_pretrained(digits8_run.folder)
    labels = load_dataset("digits8").train.labels

    def check(data: str, sha256: str, *, seed: int, share: float) -> None:
        pretrained.check_validation(data, sha256, labels, seed=seed, validation=share)

    data, seed, share = pretrained.data_sha256, pretrained.split_seed, pretrained.validation
    check("digits8", data, seed=seed, share=share)
    check("photos", "other data", seed=seed + 1, share=share / 2)
    for other, rejected in ((seed + 1, share), (seed, share / 2), (seed, share * 2)):
        _, held_out = train_test_split(
            np.arange(len(labels)), test_size=rejected, random_state=other, stratify=labels
        )
        _, own = train_test_split(
            np.arange(len(labels)), test_size=share, random_state=seed, stratify=labels
        )
        learnt = len(set(held_out) - set(own))
        assert learnt
        images = f"{learnt} of the {len(held_out)} images"
        said = f"trained on {images} .* pass --set validation_seed=0 --set validation=0.15"
        with pytest.raises(RunError, match=said):
            check("digits8", data, seed=other, share=rejected)


def test_smaller_validation_split_of_the_same_seed_is_accepted(
    digits8_run: Run,
) -> None:
    # If all classes have equally many images, a smaller share holds out a part of a larger one.
    labels = np.repeat(np.arange(10), 100)
    pretrained = read_pretrained(digits8_run.folder)
    data = pretrained.data_sha256
    for smaller in (0.05, 0.1):
        pretrained.check_validation(
            "digits8", data, labels, seed=pretrained.split_seed, validation=smaller
        )
    with pytest.raises(RunError, match="was trained on 50 of the 200 images"):
        pretrained.check_validation(
            "digits8", data, labels, seed=pretrained.split_seed, validation=0.2
        )


@pytest.mark.parametrize(
    ("learnt", "data", "shared"),
    [
        ("cifar8", "cifar10", True),
        ("cifar10", "cifar8", True),
        ("cifar10", "cats-and-dogs", True),
        ("cats-and-dogs", "cats-and-dogs", True),
        ("cifar8", "cats-and-dogs", False),
        ("mnist37", "cifar10", False),
        ("photos", "photos", False),
    ],
)
def test_subset_or_parent_of_the_training_data_is_rejected(
    digits8_run: Run, *, learnt: str, data: str, shared: bool
) -> None:
    pretrained = replace(read_pretrained(digits8_run.folder), data=learnt)
    rejected = pytest.raises(
        RunError, match=f"was trained on images of {learnt} .* validate on as images of {data}"
    )
    with rejected if shared else nullcontext():
        pretrained.check_validation(
            data,
            "of other bytes",
            np.zeros(0, np.int64),
            seed=pretrained.split_seed,
            validation=pretrained.validation,
        )


@pytest.mark.timeout(300)
def test_finetuning_with_the_same_classes_keeps_the_head(digits8_run: Run, tmp_path: Path) -> None:
    command = (
        "finetune", "digits8", "--from", str(digits8_run.folder), "--recipe", "digits8",
        "--epochs", "1", "--lr", "0.001", "--no-report",
    )  # fmt: skip
    rejected = limelight(*command, "--seed", "1", cwd=tmp_path)
    assert rejected.returncode == 1
    assert "pass --set validation_seed=0" in rejected.stderr
    choices = ("--set", "ema_decay=0.5", "--set", "network.dropout=0.25", "--set", "epochs=2")
    trained = limelight(*command, *choices, "--out", "second", cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr
    run = read_run(tmp_path / "second")
    assert run.config.recipe.ema_decay == 0.5
    assert run.config.recipe.network.dropout == 0.25
    assert run.config.recipe.epochs == 2
    before, after = digits8_run.network.state_dict(), run.network.state_dict()
    for name in ("features.0.0.weight", "head.linear.weight"):
        assert 0 < (after[name] - before[name]).norm() < 0.1 * before[name].norm()
    assert run.best.validation_accuracy >= digits8_run.best.validation_accuracy - 0.01


def test_path_that_is_neither_run_nor_artefact_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="neither a run nor an artefact"):
        read_pretrained(tmp_path / "nothing")


def test_artefact_without_weights_is_rejected(artifact_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(artifact_folder, tmp_path / "digits8" / "1")
    manifest = load_artifact(folder).manifest
    files = {name: file for name, file in manifest.files.items() if name != WEIGHTS}
    older = manifest.model_copy(update={"files": files})
    (folder / "manifest.json").write_text(older.model_dump_json())
    with pytest.raises(RunError, match="no weights to initialise from; export its run again"):
        read_pretrained(folder)


def _small_digits_as_photos(folder: Path, digits: tuple[int, ...]) -> Path:
    """Grey digits as colour images, which a folder's are."""
    split = load_dataset("digits8").train
    for digit in digits:
        (folder / str(digit)).mkdir(parents=True)
        for number in np.flatnonzero(split.labels == digit)[:60]:
            pixels = np.repeat(split.images[number], 3, 2)
            image = Image.fromarray(pixels).resize((32, 32), Image.Resampling.BICUBIC)
            image.save(folder / str(digit) / f"{number}.png")
    return folder


@pytest.mark.timeout(600)
def test_model_of_one_folder_is_finetuned_on_another_and_exported(tmp_path: Path) -> None:
    _small_digits_as_photos(tmp_path / "even", (0, 2, 4, 6, 8))
    _small_digits_as_photos(tmp_path / "odd", (1, 3, 7))
    common = ("--batch-size", "32", "--no-report")
    trained = limelight(
        "train", "even", "--out", "first", "--image-size", "16", "--epochs", "12", *common,
        "--set", "network.widths=[8,16,16,32]", cwd=tmp_path,
    )  # fmt: skip
    assert trained.returncode == 0, trained.stderr
    tuned = limelight(
        "finetune", "odd", "--from", "first", "--out", "second", "--freeze-epochs", "2",
        "--epochs", "12", "--lr", "0.03,0.1", *common, cwd=tmp_path,
    )  # fmt: skip
    assert tuned.returncode == 0, tuned.stderr
    assert tuned.stderr.count("(head only)") == 2
    run = read_run(tmp_path / "second")
    assert run.config.classes == ("1", "3", "7")
    assert run.config.pretrained == "first"
    assert run.config.normalisation == read_run(tmp_path / "first").config.normalisation
    assert (run.config.image.height, run.config.image.width) == (16, 16)
    # Of 22 images; guessing gives a third.
    assert run.best.validation_accuracy > 0.6
    artifact = load_artifact(export(run, tmp_path / "artifacts", layercam=False))
    assert artifact.manifest.training["pretrained"] == "first"
    rejected = limelight("finetune", "digits8", "--from", "first", cwd=tmp_path)
    assert rejected.returncode == 1
    assert "takes images of 3 channel(s), and digits8 has 1" in rejected.stderr


@pytest.mark.parametrize(
    "changes", [{"widths": (8, 8, 8, 8)}, {"norm": "none"}, {"architecture": "simple-cnn"}]
)
def test_weights_of_another_network_are_rejected(changes: dict[str, Any], digits8_run: Run) -> None:
    network = replace(digits8_run.config.recipe.network, **({"widths": ()} | changes))
    recipe = Recipe.load("digits8").but(network=network)
    with pytest.raises(RunError, match="weights to begin with are of another one"):
        small_trainer(recipe, initial=read_pretrained(digits8_run.folder).weights)


def test_pretrained_weights_that_are_replaced_are_not_downloaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("downloaded")

    monkeypatch.setattr("models.torchvision_backbone.load_published", fail)
    network = NetworkOptions(architecture="torchvision:resnet18", pretrained=True)
    plain = replace(network, pretrained=False)
    weights = build_network(plain, in_channels=3, classes=10).state_dict()
    images = np.repeat(load_dataset("digits8").train.images[:64], 3, axis=3)
    fit = Split(images, load_dataset("digits8").train.labels[:64])
    recipe = Recipe.load("digits8", batch_size=32).but(network=network)
    trainer = small_trainer(recipe, fit=fit, initial=weights)
    assert all(torch.equal(value, weights[name]) for name, value in trainer.weights().items())
