"""Training on the small digits: accuracy, reproducibility and error messages."""

import copy
import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn
from torch.optim.swa_utils import update_bn

from models import NetworkOptions
from models.norm_layers import LessonNorm
from models.normalization import Normalisation
from pipeline.data.class_balance import class_weights
from pipeline.data.registry import DATASETS, Split, load_dataset
from pipeline.errors import DataError, PipelineError, RunError
from pipeline.training.augmentation.augmenter import Augmenter, Drawn, Mixture
from pipeline.training.callbacks import Callback
from pipeline.training.device import choose_device
from pipeline.training.inference import evaluate
from pipeline.training.loop import train
from pipeline.training.optimization.weight_averaging import measure_running_statistics
from pipeline.training.recipe import RECIPES, Recipe, recipe_names
from pipeline.training.record import Batch, Record
from pipeline.training.trainer import Trainer
from pipeline.training.weights import check_finite, make_network
from tests.pipeline.training.small_trainings import (
    CPU,
    DIGITS,
    float32,
    float64,
    short_training,
    small_trainer,
    splits,
)


def test_same_seed_gives_the_same_bits() -> None:
    first, second = short_training(), short_training()
    for name, weight in first.weights.items():
        assert torch.equal(weight, second.weights[name]), name


def test_compiled_network_trains_the_same_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    with float64():
        eager = short_training(epochs=1)
        monkeypatch.setattr("pipeline.training.trainer.compiles", lambda device: True)
        # Traced and differentiated as for a GPU, but without kernels of its own.
        monkeypatch.setattr("torch.compile", partial(torch.compile, backend="aot_eager"))
        compiled = short_training(epochs=1)
    for name, weight in eager.weights.items():
        torch.testing.assert_close(compiled.weights[name], weight, rtol=1e-9, atol=1e-9, msg=name)


def test_another_seed_gives_other_weights() -> None:
    first, second = short_training(), short_training(seed=1)
    assert not torch.equal(
        first.weights["head.linear.weight"], second.weights["head.linear.weight"]
    )


def test_trained_network_makes_less_than_half_the_errors_of_a_linear_classifier() -> None:
    (fit, validation), test = splits(), load_dataset("digits8").test
    pixels, test_pixels = (split.images[:].reshape(len(split), -1) / 255 for split in (fit, test))
    linear = LogisticRegression(max_iter=2000).fit(pixels, fit.labels)
    linear_errors = 1 - linear.score(test_pixels, test.labels)
    errors = []
    for seed in range(3):
        trainer = small_trainer(Recipe.load("digits8"), seed=seed)
        trainer.network.load_state_dict(train(trainer, validation).weights)
        logits = evaluate(trainer.network, test.images, trainer.normalisation, CPU)
        errors.append(float((logits.argmax(1) != torch.from_numpy(test.labels)).double().mean()))
    # Nobody wrote both test and training images.
    assert np.median(errors) < linear_errors / 2


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer__kind": "muon", "optimizer__muon_peak": 0.05, "network__whiten": True},
        {"optimizer__kind": "adamw", "schedule__peak": 0.01, "augmentation__cutmix": 0.5},
        {"schedule": {"kind": "sgdr", "peak": 0.1, "cycle_len": 2}, "augmentation__mixup": 0.5},
        {"ema_decay": 0.9, "augmentation__cutout": 2, "augmentation__flip": "none"},
        {"class_weights": True, "augmentation__randaugment": 0.3, "augmentation__flip": "none"},
    ],
    ids=str,
)
def test_every_option_of_a_recipe_trains(changes: dict[str, Any]) -> None:
    assert short_training(epochs=6, **changes).best.validation_accuracy > 0.9


@pytest.mark.parametrize("weighted", [False, True])
def test_labels_of_a_mixture_are_weighted_by_pixels(
    weighted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = 64
    choices = {"batch_size": size, "augmentation__cutmix": 0.5, "class_weights": weighted}
    trainer = small_trainer(Recipe.load("digits8", **choices))
    fit, rng = splits()[0], torch.Generator().manual_seed(0)
    own = torch.rand(size, generator=rng)
    partners = torch.randint(len(fit), (size,), generator=rng)
    order: list[torch.Tensor] = []

    def draw(self: Augmenter, indices: torch.Tensor, *_: object) -> Drawn:
        order.append(indices)
        return Drawn(torch.from_numpy(fit.images)[indices], Mixture(partners, own))

    monkeypatch.setattr(Augmenter, "draw", draw)
    network = copy.deepcopy(trainer.network).train()
    with float32():
        loss = next(trainer.run_epoch()).loss
    images = fit.take(order[0].numpy()).images
    logits = network(Normalisation.of([fit.images[:]]).on(CPU)(torch.from_numpy(images)))
    labels = torch.from_numpy(fit.labels)
    first, second = (nn.functional.one_hot(labels[at], 10) for at in (order[0], partners))
    target = own[:, None] * first + (1 - own[:, None]) * second
    weights = torch.from_numpy(class_weights(fit.labels, DIGITS)).float() if weighted else None
    expected = nn.functional.cross_entropy(
        logits, target, weight=weights, label_smoothing=trainer.recipe.label_smoothing
    )
    torch.testing.assert_close(loss, expected)


def test_weights_of_the_best_epoch_are_kept() -> None:
    offered: list[bool] = []

    class Improvements(Callback):
        def end_epoch(self, trainer: Trainer, record: Record) -> None:
            offered.append(record.improved)

    recipe = Recipe.load("digits8", epochs=5)
    fit, validation = splits()
    # Wrong labels: validation gets worse while the network learns.
    wrong = Split(validation.images, np.roll(validation.labels, 1))
    with float32():
        record = train(small_trainer(recipe), wrong, [Improvements()])
    ranks = [epoch.rank for epoch in record.epochs]
    assert record.best.rank == max(ranks) != ranks[-1]
    assert offered == [rank > max(ranks[:at], default=(-1, 0)) for at, rank in enumerate(ranks)]
    network = make_network(recipe, channels=1, classes=10)
    network.load_state_dict(record.weights)
    logits = evaluate(network, wrong.images, Normalisation.of([fit.images[:]]), CPU)
    loss = nn.functional.cross_entropy(logits, torch.from_numpy(wrong.labels))
    assert float(loss) == pytest.approx(record.best.validation_loss, rel=1e-5)


def test_training_stops_when_no_epoch_was_better_for_the_patience() -> None:
    # A rate of almost nothing: the first epoch is the best, or as good as the others.
    changes: dict[str, Any] = {"schedule__peak": 1e-9, "patience": 3}
    record = short_training(epochs=12, **changes)
    assert len(record.epochs) == record.best.epoch + 3 < 12
    assert not record.stalled(4)


def test_every_step_has_the_rate_and_momentum_of_the_schedule() -> None:
    taken: list[tuple[float, float]] = []
    reported: list[tuple[float, float]] = []

    class Rates(Callback):
        def end_batch(self, trainer: Trainer, batch: Batch) -> None:
            group = trainer.optimizers._all[0].param_groups[0]
            taken.append((group["lr"], group["momentum"]))
            reported.append((batch.learning_rate, batch.momentum))

    short_training(callbacks=[Rates()])
    schedule = Recipe.load("digits8").schedule
    steps = len(taken)
    expected = [schedule.at(step, steps, steps // 2) for step in range(steps)]
    np.testing.assert_allclose(taken, [(0.1 * rate.share, rate.momentum) for rate in expected])
    np.testing.assert_allclose(reported, taken)


def test_error_about_a_nan_loss_names_step_and_a_rate_to_try() -> None:
    with pytest.raises(RunError, match=r"loss is (nan|inf) in epoch 1, .*peak rate 1e\+20.*--lr"):
        short_training(schedule__peak=1e20)


def test_growing_finite_loss_stops_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = small_trainer(Recipe.load("digits8", label_smoothing=0.0))
    losses = iter([2.3] * 30 + [2.3 * 1.1**step for step in range(60)])
    monkeypatch.setattr(trainer, "_loss", lambda logits, *_: logits.sum() * 0 + next(losses))
    with pytest.raises(RunError, match=r"diverges \(1\d.*, and guessing gives 2\.3\).*--lr"):
        [batch for _ in range(10) for batch in trainer.run_epoch()]


def test_moving_average_of_the_loss_goes_on_after_a_resume() -> None:
    trainer, resumed = small_trainer(Recipe.load("digits8")), small_trainer(Recipe.load("digits8"))
    list(trainer.run_epoch())
    resumed.restore(trainer.state())
    assert math.isfinite(trainer._check_loss.smoothed)
    assert resumed._check_loss.smoothed == trainer._check_loss.smoothed


def test_images_that_are_too_small_for_corruptions_are_rejected() -> None:
    fit = Split(np.zeros((64, 3, 3, 1), np.uint8), np.arange(64) % 10)
    recipe = Recipe.load("digits8", batch_size=32, augmentation={"corruptions": 0.5})
    with pytest.raises(RunError, match="3 x 3 pixels are too small for augmentation"):
        small_trainer(recipe, fit=fit)


def test_nan_loss_stops_the_run_at_its_step() -> None:
    trainer = small_trainer(Recipe.load("digits8"))
    with torch.no_grad():
        trainer.network.head.bias[3] = torch.nan
    with pytest.raises(RunError, match="loss is nan in epoch 1, step 1"):
        next(trainer.run_epoch())


def test_fewer_images_than_a_batch_are_rejected() -> None:
    few = load_dataset("digits8").train.take(np.arange(20))
    with pytest.raises(DataError, match=r"20 training images .* one batch of 64.*--batch-size"):
        small_trainer(Recipe.load("digits8"), fit=few)


def test_wrong_number_of_rates_is_rejected() -> None:
    with pytest.raises(RunError, match="4 rates for 3 layer groups"):
        small_trainer(Recipe.load("digits8", schedule__peak=(0.1, 0.2, 0.3, 0.4)))


def test_ema_weights_are_the_moving_average() -> None:
    recipe = Recipe.load("digits8", ema_decay=0.5)
    trainer = small_trainer(recipe)
    seen = [trainer.network.head.bias.detach().clone() for _ in trainer.run_epoch()]
    expected = seen[0]
    for bias in seen[1:]:
        expected = 0.5 * expected + 0.5 * bias
    torch.testing.assert_close(trainer.weights()["head.linear.bias"], expected)


def test_first_swa_weights_are_the_mean_since_the_phase_began() -> None:
    recipe = Recipe.load("digits8", epochs=2, ema_decay=0.999, schedule__swa_fraction=0.5)
    trainer = small_trainer(recipe)
    before = [trainer.network.head.bias.detach().clone() for _ in trainer.run_epoch()]
    torch.testing.assert_close(trainer.weights()["head.linear.bias"], before[-1], atol=0, rtol=0)
    tail = [trainer.network.head.bias.detach().clone() for _ in trainer.run_epoch()]
    assert len(before) == len(tail)
    mean = torch.stack(tail).mean(0)
    assert not torch.allclose(tail[-1], mean)
    torch.testing.assert_close(trainer.weights()["head.linear.bias"], mean)


def test_averaging_begins_after_the_frozen_epochs() -> None:
    recipe = Recipe.load("digits8", epochs=1, freeze_epochs=1, ema_decay=0.999)
    trainer = small_trainer(recipe)
    for batch in trainer.run_epoch():
        assert trainer.evaluated is trainer.network, batch.step
    after = [trainer.network.head.bias.detach().clone() for _ in trainer.run_epoch()]
    torch.testing.assert_close(trainer.weights()["head.linear.bias"], torch.stack(after).mean(0))


def _make_variance_biased(
    measured: nn.Module, name: str, layer: nn.Module, inputs: tuple[torch.Tensor]
) -> None:
    """Divide the running variance by n as a batch does, instead of by n - 1."""
    norm = measured.get_submodule(name)
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_var is not None
    count = inputs[0].numel() // inputs[0].shape[1]
    norm.running_var *= (count - 1) / count


@pytest.mark.parametrize("ema_decay", [0, 0.9])
def test_norms_have_the_statistics_of_the_evaluated_network(ema_decay: float) -> None:
    fit = splits()[0].take(np.arange(600))
    # All images are one batch, and none is changed: training and evaluation then see the same.
    choices = {"ema_decay": ema_decay, "batch_size": 600, "augmentation__pad": 0}
    trainer = small_trainer(Recipe.load("digits8", **choices), fit=fit)
    with float32():
        for _ in range(10):
            list(trainer.run_epoch())
    network, images = trainer.evaluated, trainer.normalisation.on(CPU)(torch.from_numpy(fit.images))
    measured = copy.deepcopy(network).eval()
    for name, layer in network.named_modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.register_forward_pre_hook(partial(_make_variance_biased, measured, name))
    with torch.no_grad():
        by_the_batch = network.train()(images)
        torch.testing.assert_close(measured(images), by_the_batch, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("steps", "measured"), [(49, True), (50, False)])
def test_norms_are_measured_again_if_an_epoch_has_few_steps(
    steps: int, measured: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[nn.Module] = []
    monkeypatch.setattr(
        "pipeline.training.trainer.measure_running_statistics",
        lambda network, _: seen.append(network),
    )
    fit = splits()[0].take(np.arange(4 * steps))
    trainer = small_trainer(Recipe.load("digits8", batch_size=4), fit=fit)
    list(trainer.run_epoch())
    assert seen == [trainer.network] * measured


def test_written_out_norms_are_measured_again_like_those_of_torch() -> None:
    batches = [torch.randn(5, 3, 6, 6) + number for number in range(3)]
    ours, torchs = LessonNorm(3), nn.BatchNorm2d(3)
    ours.running_mean.fill_(9)
    torchs.reset_running_stats()
    for network in (ours, torchs):
        measure_running_statistics(network.eval(), batches)
        assert not network.training
        assert network.momentum == 0.1
    expected = nn.BatchNorm2d(3)
    update_bn(batches, expected)
    for mean, variance in (
        (ours.running_mean, ours.running_variance),
        (torchs.running_mean, torchs.running_var),
    ):
        torch.testing.assert_close(mean, expected.running_mean)
        torch.testing.assert_close(variance, expected.running_var)


def test_weights_that_are_not_finite_are_not_kept() -> None:
    trainer = small_trainer(Recipe.load("digits8", epochs=1))
    with torch.no_grad():
        next(trainer.network.head.parameters())[0] = math.nan
    with pytest.raises(RunError, match="not finite"):
        check_finite(trainer.weights())


def test_strided_convolutions_of_one_position_leave_finite_weights() -> None:
    """The lesson's network halves images of 8 pixels to a single one, and then again."""
    recipe = Recipe.load("digits8", network=NetworkOptions(architecture="simple-cnn"), epochs=1)
    trainer = small_trainer(recipe)
    for _ in range(3):
        list(trainer.run_epoch())
    check_finite(trainer.weights())


def test_frozen_norms_are_unchanged_in_ema_weights() -> None:
    trainer = small_trainer(Recipe.load("digits8", ema_decay=0.9, bn_freeze=True))
    before = trainer.weights()
    list(trainer.run_epoch())
    after = trainer.weights()
    for name in (name for name in before if "running_" in name):
        assert torch.equal(after[name], before[name]), name


def test_normalised_channels_have_mean_0_and_deviation_1() -> None:
    rng = np.random.default_rng(0)
    images = (rng.random((50, 9, 8, 3)) * (50, 120, 250)).astype(np.uint8)
    normalisation = Normalisation.of([images])
    np.testing.assert_allclose(normalisation.mean, (images / 255).mean((0, 1, 2)), rtol=1e-9)
    np.testing.assert_allclose(normalisation.std, (images / 255).std((0, 1, 2)), rtol=1e-9)
    normalised = normalisation.on(CPU)(torch.from_numpy(images))
    assert normalised.shape == (50, 3, 9, 8)
    torch.testing.assert_close(normalised.mean((0, 2, 3)), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(normalised.std((0, 2, 3)), torch.ones(3), atol=1e-3, rtol=0)


def test_constant_channel_is_normalised_to_zero() -> None:
    images = np.full((3, 4, 4, 1), 77, np.uint8)
    normalised = Normalisation.of([images]).on(CPU)(torch.from_numpy(images))
    torch.testing.assert_close(normalised, torch.zeros(3, 1, 4, 4), atol=1e-6, rtol=0)


def test_missing_gpu_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == CPU
    with pytest.raises(PipelineError, match="no usable GPU; train with --device cpu"):
        choose_device("cuda")
    with pytest.raises(PipelineError, match="choose auto, cpu or cuda"):
        choose_device("tpu")


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_is_valid_and_builds_its_network(name: str) -> None:
    recipe = Recipe.load(name)
    assert recipe.data == "folder" or recipe.data in DATASETS
    channels = 1 if recipe.data in ("mnist", "mnist37", "digits8") else 3
    make_network(recipe, channels=channels, classes=10)
    assert Recipe.load(name, epochs=3).epochs == 3


def test_recipe_can_be_a_toml_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text((RECIPES / "digits8.toml").read_text().replace("peak = 0.1", "peak = 0.07"))
    assert Recipe.load(str(file)).schedule.peak == 0.07
    assert Recipe.load(str(file), schedule__peak=(0.1, 0.2, 0.3)).schedule.peak == (0.1, 0.2, 0.3)
    file.write_text("epochs = ")
    with pytest.raises(PipelineError, match=r"mine\.toml is not TOML"):
        Recipe.load(str(file))


def test_misspelt_network_option_is_named() -> None:
    with pytest.raises(PipelineError, match=r"recipe digits8: network\.width"):
        Recipe.load("digits8", network__width=3)


def test_error_in_a_recipe_names_the_field() -> None:
    with pytest.raises(PipelineError, match=r"recipe digits8: batch_size: .*greater than or equal"):
        Recipe.load("digits8", batch_size=0)
    with pytest.raises(PipelineError, match=r"no recipe 'nothing'; there are: .*cifar10"):
        Recipe.load("nothing")


def test_split_keeps_images_and_labels_together() -> None:
    split = Split(np.arange(4, dtype=np.uint8)[:, None, None, None], np.arange(4))
    taken = split.take(np.array([2, 0]))
    assert taken.images[:].ravel().tolist() == taken.labels.tolist() == [2, 0]
