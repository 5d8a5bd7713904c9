"""Statistics of activations, compared with numpy, and of runs that fail."""

import numpy as np
import pytest
import torch
from torch import nn

from models import ClassMapNetwork, build_network
from models.heads import ClassMapHead
from models.options import NetworkOptions
from pipeline.errors import RunError
from pipeline.training.activation_stats import ActivationStatistics, sample, watched_layers
from pipeline.training.loop import train
from pipeline.training.optimization.schedules import Constant, OneCycle
from pipeline.training.recipe import Recipe
from pipeline.training.record import Batch
from pipeline.training.trainer import Trainer
from tests.pipeline.training.small_trainings import small_trainer, splits

_, VALIDATION = splits()


def make_trainer(**changes: object) -> Trainer:
    return small_trainer(Recipe.load("digits8", epochs=2).but(**changes))


def run(statistics: ActivationStatistics, **changes: object) -> Trainer:
    trainer = make_trainer(**changes)
    train(trainer, VALIDATION, [statistics])
    return trainer


def hand_made() -> ClassMapNetwork:
    features = nn.Sequential(
        nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(inplace=True)),
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.BatchNorm2d(4)),
    )
    head = ClassMapHead(4, 10)
    nn.init.normal_(head.linear.weight, std=10)  # so that some logits lie outside the histogram
    return ClassMapNetwork(features, head)


def test_statistics_of_every_layer_equal_numpy() -> None:
    trainer = make_trainer()
    torch.manual_seed(0)
    trainer.network = hand_made()
    statistics = ActivationStatistics(every=1)
    statistics.begin_training(trainer)
    statistics.begin_batch(trainer)
    images = torch.randn(16, 1, 8, 8) * 40
    logits = trainer.network(images)
    statistics.end_batch(trainer, _batch(step=1))
    assert statistics.metadata() == {
        "layers": ["features.0", "features.1", "head"],
        "histogram_ranges": [[0, 10], [0, 10], [-10, 10]],
    }
    first = trainer.network.features[0](images)
    second = trainer.network.features[1][:2](first)  # type: ignore[index]
    state = statistics.state()
    assert state["steps"].tolist() == [1]
    for row, (values, low) in enumerate([(first, 0), (second, 0), (logits, -10)]):
        expected = values.detach().numpy()
        assert expected.max() > 10
        assert float(state["means"][row, 0]) == pytest.approx(expected.mean(), rel=1e-4)
        assert float(state["deviations"][row, 0]) == pytest.approx(expected.std(), rel=1e-4)
        near = (np.abs(expected) < 0.05).mean()
        assert float(state["near_zero"][row, 0]) == pytest.approx(near, abs=1e-6)
        counts, _ = np.histogram(expected.clip(low, 10), 40, (low, 10))
        np.testing.assert_allclose(state["histograms"][row, 0], counts, atol=1)
        assert float(state["histograms"][row].sum()) == expected.size


def test_large_output_is_sampled_evenly() -> None:
    shape = (64, 32, 32, 32)
    for axis, size in enumerate(shape):
        index = torch.arange(size).view([-1 if at == axis else 1 for at in range(4)])
        taken = sample(index.expand(shape))
        assert 2**15 * 0.9 < len(taken) <= 2**15
        counts = torch.bincount(taken, minlength=size)
        assert counts.min() > 0.9 * counts.max()


def test_every_nth_batch_is_measured_and_hooks_are_removed() -> None:
    statistics = ActivationStatistics(every=8)
    trainer = run(statistics)
    assert statistics.state()["steps"].tolist() == [1, 9, 17, 25, 33]
    assert statistics.state()["histograms"].shape == (len(statistics.layers), 5, 40)
    assert not any(module._forward_hooks for module in trainer.network.modules())
    assert not trainer.eager


def test_batch_that_is_not_measured_has_no_hook() -> None:
    trainer = make_trainer()
    statistics = ActivationStatistics(every=3)
    statistics.begin_training(trainer)
    hooked = []
    for step in range(4):
        trainer.step = step
        statistics.begin_batch(trainer)
        hooked.append(
            (trainer.eager, sum(len(module._forward_hooks) for module in trainer.network.modules()))
        )
        trainer.network(torch.randn(4, 1, 8, 8))
        statistics.end_batch(trainer, _batch(step=step + 1))
    layers = len(statistics.layers)
    assert hooked == [(True, layers), (False, 0), (False, 0), (True, layers)]


def test_callback_changes_no_weight() -> None:
    with_it, without = run(ActivationStatistics(every=2)), make_trainer()
    train(without, VALIDATION)
    for name, weight in with_it.weights().items():
        assert torch.equal(weight, without.weights()[name]), name


def test_statistics_from_before_a_resume_are_kept() -> None:
    first = ActivationStatistics(every=8)
    run(first)
    second = ActivationStatistics(every=8)
    second.restore(first.state())
    trainer = make_trainer()
    second.begin_training(trainer)
    for name, value in first.state().items():
        assert torch.equal(second.state()[name], value), name
    trainer.step = 40
    second.begin_batch(trainer)
    trainer.network(torch.randn(4, 1, 8, 8))
    second.end_batch(trainer, _batch(step=41))
    assert second.state()["steps"].tolist() == [1, 9, 17, 25, 33, 41]
    assert torch.equal(second.state()["means"][:, :5], first.state()["means"])


def test_state_is_empty_before_the_first_batch() -> None:
    statistics = ActivationStatistics()
    assert statistics.state() == {}
    statistics.restore({})
    assert statistics.state() == {}


def test_failed_run_leaves_no_hook() -> None:
    trainer = make_trainer(schedule=Constant(peak=1e20).model_dump())
    with pytest.raises(RunError):
        train(trainer, VALIDATION, [ActivationStatistics(every=1)])
    assert not any(module._forward_hooks for module in trainer.network.modules())


def test_statistics_of_bfloat16_activations_are_float32() -> None:
    trainer = make_trainer()
    trainer.network = hand_made().bfloat16()
    statistics = ActivationStatistics(every=1)
    statistics.begin_training(trainer)
    statistics.begin_batch(trainer)
    logits = trainer.network(torch.randn(64, 1, 8, 8).bfloat16()).detach().float()
    statistics.end_batch(trainer, _batch(step=1))
    state = statistics.state()
    assert state["means"].dtype == torch.float32
    # bfloat16 has 8 bits: its own mean would be off by up to 0.4 %.
    assert float(state["means"][2, 0]) == pytest.approx(float(logits.mean()), rel=1e-5)


def test_torchvision_blocks_are_measured_at_their_ends() -> None:
    options = NetworkOptions(architecture="torchvision:resnet18")
    names = list(watched_layers(build_network(options, in_channels=3, classes=2)))
    blocks = [f"features.{stage}.{block}" for stage in range(4, 8) for block in range(2)]
    assert names == ["features.2", *blocks, "head"]


LESSON = {"architecture": "simple-cnn", "widths": ()}


@pytest.mark.parametrize(("batch_size", "epochs"), [(64, 2), (512, 12)])
def test_high_constant_rate_shows_dead_layers(batch_size: int, epochs: int) -> None:
    statistics = ActivationStatistics(every=2)
    failing: dict[str, object] = {
        "network": LESSON | {"norm": "none"},
        "schedule": Constant(peak=0.06).model_dump(),
        "batch_size": batch_size,
        "epochs": epochs,
    }
    trainer = run(statistics, **failing)
    _, accuracy = trainer.validate(VALIDATION)
    assert accuracy < 0.3
    assert (statistics.state()["near_zero"][-2, -5:] > 0.9).all()


def test_one_cycle_with_batch_norm_keeps_every_layer_alive() -> None:
    statistics = ActivationStatistics(every=2)
    trainer = run(
        statistics,
        network=LESSON | {"norm": "batch"},
        schedule=OneCycle(peak=0.06).model_dump(),
        epochs=4,
    )
    _, accuracy = trainer.validate(VALIDATION)
    assert accuracy > 0.9
    assert (statistics.state()["near_zero"][:-1] < 0.7).all()


def _batch(*, step: int) -> Batch:
    return Batch(
        step=step, steps=32, epoch=1, loss=torch.tensor(0.0), learning_rate=0.1, momentum=0.9
    )
