"""Training on the small digits: it learns, repeats itself, and fails in words."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline.datasets import Split, load_dataset, split_validation
from pipeline.device import choose_device
from pipeline.errors import DataError, PipelineError, RunError
from pipeline.recipe import OneCycle, Recipe
from pipeline.runs import Run
from pipeline.training import Normalisation, Trained, build_network, evaluate, train

CPU = torch.device("cpu")


def short_training(*, seed: int = 0, peak_lr: float = 0.1, epochs: int = 2) -> Trained:
    recipe = Recipe.load("digits8", epochs=epochs)
    schedule = recipe.schedule.model_copy(update={"peak_lr": peak_lr})
    fit, validation = split_validation(load_dataset("digits8").train, recipe.validation, 0)
    return train(
        recipe.model_copy(update={"schedule": schedule}),
        fit,
        validation,
        classes=10,
        normalisation=Normalisation.of(fit.images),
        device=CPU,
        seed=seed,
    )


def test_the_same_seed_gives_the_same_weights_to_the_last_bit() -> None:
    first, second = short_training(), short_training()
    for name, weight in first.weights.items():
        assert torch.equal(weight, second.weights[name]), name


def test_another_seed_gives_other_weights() -> None:
    first, second = short_training(), short_training(seed=1)
    assert not torch.equal(
        first.weights["head.linear.weight"], second.weights["head.linear.weight"]
    )


def test_the_small_digits_are_learnt(digits8_run: Run) -> None:
    # Writers of the test images wrote none of the training images; 94 % is what a nearest
    # neighbour reaches on such a split.
    test = load_dataset("digits8").test
    logits = evaluate(digits8_run.network, test.images, digits8_run.config.normalisation, CPU)
    accuracy = float((logits.argmax(1) == torch.from_numpy(test.labels)).float().mean())
    assert accuracy >= 0.94


def test_the_best_epochs_weights_are_kept_and_not_the_last_ones() -> None:
    offered: list[bool] = []
    recipe = Recipe.load("digits8", epochs=5)
    fit, validation = split_validation(load_dataset("digits8").train, recipe.validation, 0)
    # Labels that the network unlearns: those of the images' neighbours in the split.
    wrong = Split(validation.images, np.roll(validation.labels, 1))
    normalisation = Normalisation.of(fit.images)
    trained = train(
        recipe,
        fit,
        wrong,
        classes=10,
        normalisation=normalisation,
        device=CPU,
        seed=0,
        on_epoch=lambda epoch, weights: offered.append(weights is not None),
    )
    ranks = [epoch.rank for epoch in trained.epochs]
    assert trained.best.rank == max(ranks) != ranks[-1]
    assert offered == [rank > max(ranks[:at], default=(-1, 0)) for at, rank in enumerate(ranks)]
    network = build_network(recipe, channels=1, classes=10)
    network.load_state_dict(trained.weights)
    logits = evaluate(network, wrong.images, normalisation, CPU)
    loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(wrong.labels))
    assert float(loss) == pytest.approx(trained.best.validation_loss, rel=1e-5)


def test_the_rate_rises_to_the_peak_and_the_momentum_falls_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rates, momenta = [], []
    original = torch.optim.SGD.step

    def spy(self: torch.optim.SGD, closure: None = None) -> None:
        rates.append(self.param_groups[0]["lr"])
        momenta.append(self.param_groups[0]["momentum"])
        original(self, closure)

    monkeypatch.setattr(torch.optim.SGD, "step", spy)
    short_training(peak_lr=0.1)
    # The cosine from peak / 10 up to the peak in a quarter of the steps, then to nearly nothing.
    top = int(np.argmax(rates))
    assert rates[0] == pytest.approx(0.01)
    assert max(rates) == pytest.approx(0.1, rel=1e-2)
    assert top / len(rates) == pytest.approx(0.25, abs=0.05)
    assert rates[-1] < 0.001
    assert momenta[0] == pytest.approx(0.95)
    assert momenta[top] == pytest.approx(0.85, abs=1e-3)
    assert momenta[-1] == pytest.approx(0.95, abs=1e-3)
    halfway = top // 2
    cosine = 0.01 + (0.1 - 0.01) * (1 - math.cos(math.pi * halfway / top)) / 2
    assert rates[halfway] == pytest.approx(cosine, rel=0.05)


def test_a_loss_that_is_no_number_names_a_rate_to_try() -> None:
    with pytest.raises(RunError, match=r"peak rate 1e\+20 is too high; try 2\.5e\+19"):
        short_training(peak_lr=1e20)


def test_fewer_images_than_a_batch_are_refused() -> None:
    train_split = load_dataset("digits8").train
    few = train_split.take(np.arange(20))
    with pytest.raises(DataError, match=r"20 training images .* one batch of 64.*--batch-size"):
        train(
            Recipe.load("digits8"),
            few,
            few,
            classes=10,
            normalisation=Normalisation.of(few.images),
            device=CPU,
            seed=0,
        )


def test_normalisation_gives_every_channel_mean_0_and_deviation_1() -> None:
    rng = np.random.default_rng(0)
    images = (rng.random((50, 9, 8, 3)) * (50, 120, 250)).astype(np.uint8)
    normalisation = Normalisation.of(images)
    np.testing.assert_allclose(normalisation.mean, (images / 255).mean((0, 1, 2)), rtol=1e-9)
    np.testing.assert_allclose(normalisation.std, (images / 255).std((0, 1, 2)), rtol=1e-9)
    normalised = normalisation.on(CPU)(torch.from_numpy(images))
    assert normalised.shape == (50, 3, 9, 8)
    torch.testing.assert_close(normalised.mean((0, 2, 3)), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(normalised.std((0, 2, 3)), torch.ones(3), atol=1e-3, rtol=0)


def test_a_constant_channel_is_normalised_to_nothing() -> None:
    images = np.full((3, 4, 4, 1), 77, np.uint8)
    normalised = Normalisation.of(images).on(CPU)(torch.from_numpy(images))
    torch.testing.assert_close(normalised, torch.zeros(3, 1, 4, 4), atol=1e-6, rtol=0)


def test_a_gpu_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == CPU
    with pytest.raises(PipelineError, match="no usable GPU; train with --device cpu"):
        choose_device("cuda")
    with pytest.raises(PipelineError, match="choose auto, cpu or cuda"):
        choose_device("tpu")


@pytest.mark.parametrize("name", ["cifar10", "mnist", "digits8", "folder"])
def test_every_recipe_is_valid(name: str) -> None:
    recipe = Recipe.load(name)
    assert isinstance(recipe.schedule, OneCycle)
    assert Recipe.load(name, epochs=3).epochs == 3


def test_a_wrong_recipe_names_the_field() -> None:
    with pytest.raises(PipelineError, match=r"recipe digits8: batch_size: .*greater than or equal"):
        Recipe.load("digits8", batch_size=0)
    with pytest.raises(PipelineError, match="no recipe 'nothing'; there are: cifar10, digits8"):
        Recipe.load("nothing")


def test_a_split_keeps_images_and_labels_together() -> None:
    split = Split(np.arange(4, dtype=np.uint8)[:, None, None, None], np.arange(4))
    taken = replace(split).take(np.array([2, 0]))
    assert taken.images.ravel().tolist() == taken.labels.tolist() == [2, 0]
