"""Rates of layer groups, what decays, and a round trip of the state, against torch's optimisers."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from models import ClassMapNetwork, build_network
from models.options import NetworkOptions
from pipeline.errors import RunError
from pipeline.training.optimization.optimizers import Optimizers
from pipeline.training.optimization.schedules import Rate
from pipeline.training.recipe import Recipe

KINDS = ["sgd", "adamw", "muon"]


def make_network() -> ClassMapNetwork:
    torch.manual_seed(0)
    options = NetworkOptions(architecture="resnet", widths=(4, 6, 8, 10))
    return build_network(options, in_channels=1, classes=3)


def make_recipe(**changes: object) -> Recipe:
    plain = {"schedule": {"kind": "constant", "peak": 0.1}, "optimizer": {}}
    return Recipe.load("digits8", **plain).but(**changes)


def groups_of(optimizers: Optimizers) -> list[dict[str, object]]:
    return [group for optimizer in optimizers._all for group in optimizer.param_groups]


def rate_of(optimizers: Optimizers, parameter: Tensor) -> float:
    return _group(optimizers, parameter)["lr"]


def decay_of(optimizers: Optimizers, parameter: Tensor) -> float:
    return _group(optimizers, parameter).get("weight_decay", 0.0)


def _group(optimizers: Optimizers, parameter: Tensor) -> dict[str, float]:
    (found,) = [
        group
        for optimizer in optimizers._all
        for group in optimizer.param_groups
        if any(parameter is other for other in group["params"])
    ]
    return found


def give_gradients(network: nn.Module, seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=rng)


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_has_one_optimiser(kind: str) -> None:
    network = make_network()
    optimizers = Optimizers(network, make_recipe(optimizer__kind=kind))
    for parameter in network.parameters():
        _group(optimizers, parameter)  # fails unless exactly one has it


@pytest.mark.parametrize(
    ("peak", "expected"),
    [
        (0.2, [0.2, 0.2, 0.2]),
        ((0.1, 0.3, 0.2), [0.1, 0.3, 0.2]),
        ((0.001, 0.1), [0.001, 0.01, 0.1]),
    ],
)
@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_each_layer_group_has_its_rate(
    kind: str, peak: float | tuple[float, ...], expected: list[float]
) -> None:
    network = make_network()
    optimizers = Optimizers(network, make_recipe(optimizer__kind=kind, schedule__peak=peak))
    assert optimizers.peak == max(expected)
    optimizers.set(Rate(0.5, 0.9))
    for group, rate in zip(network.layer_groups(), expected, strict=True):
        for parameter in group.parameters():
            assert rate_of(optimizers, parameter) == pytest.approx(rate / 2)


def test_error_about_the_number_of_rates_names_the_field() -> None:
    with pytest.raises(RunError, match=r"schedule\.peak: 4 rates for 3 layer groups"):
        Optimizers(make_network(), make_recipe(schedule__peak=(1.0, 2.0, 3.0, 4.0)))


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_only_kernels_and_the_linear_layer_have_weight_decay(kind: str) -> None:
    network = make_network()
    recipe = make_recipe(optimizer__kind=kind, optimizer__weight_decay=5e-4)
    optimizers = Optimizers(network, recipe)
    decays = {
        name: decay_of(optimizers, parameter) for name, parameter in network.named_parameters()
    }
    assert {decays.pop(name) for name in list(decays) if name.endswith("0.weight")} == {5e-4}
    assert decays.pop("head.linear.weight") == 5e-4
    assert set(decays.values()) == {0.0}
    assert "head.linear.bias" in decays


def test_biases_and_norms_can_have_a_higher_rate() -> None:
    network = make_network()
    optimizers = Optimizers(network, make_recipe(optimizer__bias_scale=64.0))
    optimizers.set(Rate(1.0, 0.9))
    assert rate_of(optimizers, network.head.bias) == pytest.approx(6.4)
    assert rate_of(optimizers, network.features[0][1].weight) == pytest.approx(6.4)  # type: ignore[index]
    assert rate_of(optimizers, network.features[0][0].weight) == pytest.approx(0.1)  # type: ignore[index]


def test_muon_trains_only_convolutions_and_keeps_the_ratio_of_rates() -> None:
    network = make_network()
    recipe = make_recipe(
        optimizer__kind="muon", optimizer__muon_peak=0.05, schedule__peak=(0.001, 0.1)
    )
    optimizers = Optimizers(network, recipe)
    optimizers.set(Rate(1.0, 0.9))
    muon, _ = optimizers._all
    moved = [parameter for group in muon.param_groups for parameter in group["params"]]
    kernels = [parameter for parameter in network.parameters() if parameter.ndim == 4]
    assert {id(parameter) for parameter in moved} == {id(kernel) for kernel in kernels}
    early, late, head = network.layer_groups()
    assert rate_of(optimizers, next(early.parameters())) == pytest.approx(0.0005)
    assert rate_of(optimizers, next(late.parameters())) == pytest.approx(0.005)
    assert rate_of(optimizers, next(head.parameters())) == pytest.approx(0.1)


def test_muon_leaves_convolutions_of_the_head_to_sgd() -> None:
    """No norm follows them, so their scale matters."""
    torch.manual_seed(0)
    options = NetworkOptions(architecture="simple-cnn")
    network = build_network(options, in_channels=1, classes=3)
    muon, _ = Optimizers(network, make_recipe(optimizer__kind="muon"))._all
    moved = {id(each) for group in muon.param_groups for each in group["params"]}
    assert moved
    assert moved.isdisjoint(id(parameter) for parameter in network.head.parameters())


@pytest.mark.parametrize("changes", [{"bn_freeze": True}, {"network__norm": "none"}])
def test_muon_needs_norms_that_adapt(changes: dict[str, object]) -> None:
    with pytest.raises(RunError, match=r"choose optimizer\.kind=sgd"):
        Optimizers(make_network(), make_recipe(optimizer__kind="muon", **changes))


def test_schedule_sets_the_momentum_of_sgd_and_adamw_but_not_muon() -> None:
    for kind in KINDS:
        optimizers = Optimizers(make_network(), make_recipe(optimizer__kind=kind))
        optimizers.set(Rate(1.0, 0.85))
        last = optimizers._all[-1].param_groups[0]
        if kind == "adamw":
            assert last["betas"] == (0.85, 0.999)
        else:
            assert last["momentum"] == 0.85
        if kind == "muon":
            assert optimizers._all[0].param_groups[0]["momentum"] == 0.6


TORCHS: dict[str, Callable[[list[dict[str, object]]], torch.optim.Optimizer]] = {
    "sgd": lambda groups: torch.optim.SGD(groups, lr=0.05, momentum=0.9, nesterov=True),
    "adamw": lambda groups: torch.optim.AdamW(groups, lr=0.05, betas=(0.9, 0.999)),
}


@pytest.mark.parametrize("kind", TORCHS)
def test_steps_equal_torch(kind: str) -> None:
    ours, theirs = make_network(), make_network()
    recipe = make_recipe(optimizer__kind=kind, optimizer__weight_decay=0.01)
    optimizers = Optimizers(ours, recipe)
    decaying = [parameter for parameter in theirs.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in theirs.parameters() if parameter.ndim == 1]
    reference = TORCHS[kind](
        [{"params": decaying, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}]
    )
    for step in range(3):
        give_gradients(ours, step)
        give_gradients(theirs, step)
        optimizers.set(Rate(0.5, 0.9))
        optimizers.step()
        reference.step()
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other)


@pytest.mark.parametrize("kind", KINDS)
def test_restored_state_continues_with_the_same_bits(kind: str) -> None:
    recipe = make_recipe(
        optimizer__kind=kind, optimizer__weight_decay=0.01, schedule__peak=(0.001, 0.1)
    )
    whole, network = make_network(), make_network()
    optimizers, broken_off = Optimizers(whole, recipe), Optimizers(network, recipe)

    def step(optimizers: Optimizers, network: nn.Module, number: int) -> None:
        give_gradients(network, number)
        optimizers.set(Rate(1 / (1 + number), 0.9 - 0.01 * number))
        optimizers.step()

    for number in range(6):
        step(optimizers, whole, number)
    for number in range(3):
        step(broken_off, network, number)
    state = {name: value.clone() for name, value in broken_off.state().items()}
    resumed = Optimizers(network, recipe)
    resumed.restore(state)
    for number in range(3, 6):
        step(resumed, network, number)
    for mine, other in zip(network.parameters(), whole.parameters(), strict=True):
        assert torch.equal(mine, other)


def test_step_deletes_the_gradients() -> None:
    network = make_network()
    optimizers = Optimizers(network, make_recipe())
    give_gradients(network, 0)
    optimizers.set(Rate(1.0, 0.9))
    optimizers.step()
    assert all(parameter.grad is None for parameter in network.parameters())
