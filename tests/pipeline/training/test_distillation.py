"""Distillation from trained models, and the models that are rejected."""

import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax
from torch import nn

from limelight.artifact.store import load_artifact
from models import NetworkOptions, build_network
from models.normalization import Normalisation
from pipeline.data.registry import Split
from pipeline.errors import RunError
from pipeline.runs.exported import rebuild_run
from pipeline.runs.plan_from_choices import plan_longer
from pipeline.runs.pretrained import distil_from, read_pretrained
from pipeline.runs.run import Run, read_run
from pipeline.runs.run_plan import plan_run, resume_run
from pipeline.training.distillation import Teachers, fold_batch_norms
from pipeline.training.losses import Loss
from pipeline.training.recipe import Recipe
from pipeline.training.teacher import Teacher
from tests.pipeline.cli.running import limelight
from tests.pipeline.runs.test_resume import SimulatedInterruptError, StopAt
from tests.pipeline.training.small_trainings import (
    CPU,
    DIGITS,
    short_training,
    small_trainer,
    splits,
)


def _teachers(*runs: Run, temperature: float = 2.0) -> Teachers:
    recipe = Recipe.load("digits8", distillation_temperature=temperature)
    plan = plan_run("digits8", recipe_name="digits8", recipe=recipe, seed=0, device=CPU)
    teachers = distil_from(plan, [run.folder for run in runs]).trainer()._loss.teachers
    assert teachers is not None
    return teachers


@pytest.fixture(scope="module")
def short_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Another network, trained for a single epoch."""
    folder = tmp_path_factory.mktemp("runs") / "short"
    recipe = Recipe.load("digits8", epochs=1, network__widths=(4, 8, 8, 8))
    plan_run("digits8", recipe_name="digits8", recipe=recipe, seed=0, device=CPU).train(folder)
    return read_run(folder)


def test_prediction_is_the_mean_probability_of_the_teachers(
    digits8_run: Run, short_run: Run
) -> None:
    images = splits()[1].images[:20]
    expected = np.zeros((20, 10))
    for run in (digits8_run, short_run):
        norm = run.config.normalisation
        pixels = (images / 255 - np.array(norm.mean)) / np.array(norm.std)
        with torch.no_grad():
            logits = run.network(torch.from_numpy(pixels).float().permute(0, 3, 1, 2))
        expected += softmax(logits.numpy() / 3, axis=1) / 2
    answers = _teachers(digits8_run, short_run, temperature=3).answer(torch.from_numpy(images))
    np.testing.assert_allclose(answers.numpy(), expected, atol=1e-5)


def test_loss_is_the_cross_entropy_at_the_temperature(digits8_run: Run) -> None:
    rng = np.random.default_rng(0)
    logits, answers = rng.normal(size=(6, 10)), softmax(rng.normal(size=(6, 10)), axis=1)
    losses = _teachers(digits8_run, temperature=4).losses(
        torch.from_numpy(logits), torch.from_numpy(answers)
    )
    expected = -16 * (answers * log_softmax(logits / 4, axis=1)).sum(1)
    np.testing.assert_allclose(losses.numpy(), expected, rtol=1e-12)


def test_student_that_equals_its_teacher_has_zero_gradient(digits8_run: Run) -> None:
    teachers = _teachers(digits8_run)
    images = torch.from_numpy(splits()[1].images[:20])
    with torch.no_grad():
        logits = digits8_run.network(digits8_run.config.normalisation.on(CPU)(images))
    learning = nn.Parameter(logits.clone())
    loss = teachers.losses(learning, teachers.answer(images)).mean()
    loss.backward()  # type: ignore[no-untyped-call]
    assert learning.grad is not None
    torch.testing.assert_close(learning.grad, torch.zeros_like(logits), atol=1e-6, rtol=0)


def test_loss_of_guessing_has_the_scale_of_the_teachers(digits8_run: Run) -> None:
    loss = Loss(
        torch.zeros(1, dtype=torch.int64),
        classes=10,
        weights=None,
        label_smoothing=0.0,
        teachers=_teachers(digits8_run, temperature=4),
    )
    assert loss.of_guessing == pytest.approx(16 * math.log(10))


@pytest.mark.parametrize("cutmix", [0.0, 0.5])
def test_labels_are_ignored(digits8_run: Run, cutmix: float) -> None:
    """A teacher teaches the digits even if the labels are random."""
    fit, validation = splits()
    nonsense = Split(fit.images, np.random.default_rng(0).permutation(fit.labels))
    recipe = Recipe.load("digits8", epochs=6, augmentation__cutmix=cutmix)
    reached = []
    for teachers in (_teachers(digits8_run), None):
        trainer = small_trainer(recipe, fit=nonsense, teachers=teachers)
        for _ in range(recipe.epochs):
            list(trainer.run_epoch())
        reached.append(trainer.validate(validation)[1])
    assert reached[0] > 0.9
    assert reached[1] < 0.3


@pytest.mark.timeout(300)
def test_distilled_run_can_be_resumed_and_exported(
    digits8_run: Run, short_run: Run, tmp_path: Path
) -> None:
    copies = [
        shutil.copytree(run.folder, tmp_path / name)
        for run, name in ((digits8_run, "one"), (short_run, "other"))
    ]
    taught = ("--teacher", "one", "--teacher", "other", "--epochs", "2", "--no-report")
    whole = limelight("train", "digits8", *taught, "--out", "whole", cwd=tmp_path)
    assert whole.returncode == 0, whole.stderr
    run = read_run(tmp_path / "whole")
    assert [teacher.name for teacher in run.config.teachers] == ["one", "other"]

    plan = plan_run("digits8", recipe_name="digits8", recipe=run.config.recipe, seed=0, device=CPU)
    plan = distil_from(plan, copies)
    with pytest.raises(SimulatedInterruptError):
        plan.train(tmp_path / "interrupted", [StopAt(epoch=1)])
    # The run folder has copies of the teachers' weights.
    for copy in copies:
        shutil.rmtree(copy)
    resume_run(tmp_path / "interrupted", CPU).train(tmp_path / "interrupted")
    weights = read_run(tmp_path / "interrupted").network.state_dict()
    for name, value in run.network.state_dict().items():
        assert torch.equal(weights[name], value), name

    exported = limelight("export", "whole", "--to", "zoo", "--no-layercam", cwd=tmp_path)
    assert exported.returncode == 0, exported.stderr
    folder = Path(exported.stdout.strip())
    said = load_artifact(tmp_path / folder).manifest.training["teachers"]
    assert isinstance(said, list)
    assert [teacher["name"] for teacher in said] == ["one", "other"]  # type: ignore[index,call-overload]
    assert rebuild_run(tmp_path / folder).config.teachers == run.config.teachers


def test_finetuned_run_can_have_teachers(digits8_run: Run, tmp_path: Path) -> None:
    command = (
        "finetune", "digits8", "--recipe", "digits8", "--from", str(digits8_run.folder),
        "--teacher", str(digits8_run.folder), "--epochs", "1", "--lr", "0.001", "--no-report",
        "--out", "second",
    )  # fmt: skip
    tuned = limelight(*command, cwd=tmp_path)
    assert tuned.returncode == 0, tuned.stderr
    config = read_run(tmp_path / "second").config
    assert config.pretrained == config.teachers[0].name == digits8_run.folder.name


def test_teacher_trained_on_validation_images_is_rejected(digits8_run: Run) -> None:
    def plan(source: str = "digits8", seed: int = 0, **changes: object) -> None:
        recipe = Recipe.load("digits8", **changes)
        planned = plan_run(source, recipe_name="digits8", recipe=recipe, seed=seed, device=CPU)
        distil_from(planned, [digits8_run.folder])

    with pytest.raises(
        RunError, match=r"was trained on .* of the .* images .* pass --set validation_seed=0"
    ):
        plan(seed=1)
    plan(seed=1, validation_seed=0)
    smaller = digits8_run.config.image.model_copy(update={"height": 4, "width": 4})
    resized = replace(read_pretrained(digits8_run.folder), image=smaller, data_sha256="another")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.runs.pretrained.read_pretrained", lambda path: resized)
        with pytest.raises(RunError, match="was trained on"):
            plan(seed=1)
    with pytest.raises(RunError, match="--class-weights has no effect with --teacher"):
        plan(class_weights=True)


def test_teacher_of_other_classes_is_rejected(digits8_run: Run) -> None:
    recipe = Recipe.load("digits8")
    planned = plan_run("digits8", recipe_name="digits8", recipe=recipe, seed=0, device=CPU)
    config = planned.config.model_copy(update={"classes": DIGITS[::-1]})
    other = type(planned)(config, planned.data, CPU)
    with pytest.raises(
        RunError, match=r"has the classes 0, 1, .*, and digits8 has 9, 8, .*; choose"
    ):
        distil_from(other, [digits8_run.folder])


def test_weights_of_another_network_are_rejected(digits8_run: Run, short_run: Run) -> None:
    teacher = Teacher(
        name="runs/one",
        network=digits8_run.config.recipe.network,
        normalisation=Normalisation(mean=(0.5,), std=(0.5,)),
    )
    weights = {f"0.{name}": value for name, value in short_run.network.state_dict().items()}
    with pytest.raises(RunError, match="runs/one: its weights are not its network's"):
        Teachers([teacher], weights, classes=10, temperature=1, device=CPU)


def test_loss_at_a_high_temperature_does_not_count_as_diverging(digits8_run: Run) -> None:
    # Its scale makes the loss more than four times that of guessing, which stops a run on labels.
    recipe = Recipe.load("digits8", epochs=2)
    trainer = small_trainer(recipe, teachers=_teachers(digits8_run, temperature=4.0))
    losses = [float(batch.loss) for _ in range(2) for batch in trainer.run_epoch()]
    assert len(losses) > 20
    assert losses[-1] > 4 * np.log(10)


def test_temperature_has_no_effect_without_teachers() -> None:
    record = short_training(epochs=1, distillation_temperature=7.0)
    assert record.best.train_loss == short_training(epochs=1).best.train_loss


def test_folded_batch_norms_leave_the_outputs_as_they_were() -> None:
    torch.manual_seed(0)
    options = NetworkOptions(architecture="resnet", widths=(4, 6, 8, 10))
    network = build_network(options, in_channels=3, classes=5)
    images = torch.randn(8, 3, 16, 16)
    for _ in range(3):
        network.train()(images)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d | nn.Linear):
            nn.init.normal_(layer.weight)
            nn.init.normal_(layer.bias)
    expected = network.eval()(images)
    fold_batch_norms(network)
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in network.modules())
    torch.testing.assert_close(network(images), expected, rtol=1e-4, atol=1e-4)


class NormAndRelu(nn.BatchNorm2d):
    """BatchNorm with an activation in it, as timm's DenseNets have."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x).relu()


def test_norms_that_do_more_are_not_folded() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), NormAndRelu(4)).eval()
    images = torch.randn(2, 3, 5, 5)
    expected = network(images)
    fold_batch_norms(network)
    assert torch.equal(network(images), expected)


def test_longer_training_has_the_same_teachers(digits8_run: Run, tmp_path: Path) -> None:
    plan = plan_run(
        "digits8", recipe_name="digits8", recipe=Recipe.load("digits8", epochs=1), seed=0,
        device=CPU,
    )  # fmt: skip
    distil_from(plan, [digits8_run.folder]).train(tmp_path / "run")
    longer = plan_longer(tmp_path / "run", 1, device=CPU)
    assert [each.name for each in longer.config.teachers] == [digits8_run.folder.name]
    images, teachers = splits()[1].images[:10], longer.trainer()._loss.teachers
    assert teachers is not None
    found = teachers.answer(torch.from_numpy(images))
    expected = _teachers(digits8_run).answer(torch.from_numpy(images))
    torch.testing.assert_close(found, expected)
