"""Optimisers of a recipe, with a rate for each layer group."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from models import ClassMapNetwork
from pipeline.errors import RunError
from pipeline.training.optimization.muon import Muon
from pipeline.training.optimization.schedules import Rate, spread
from pipeline.training.recipe import Recipe


class Optimizers:
    """All optimisers of a network: one, or Muon and SGD."""

    def __init__(self, network: ClassMapNetwork, recipe: Recipe) -> None:
        groups = network.layer_groups()
        if recipe.optimizer.kind == "muon" and (recipe.bn_freeze or recipe.network.norm == "none"):
            raise RunError(
                "optimizer.kind=muon scales the convolutions, and needs norms that adapt to it: "
                'leave out bn_freeze and norm = "none", or choose optimizer.kind=sgd'
            )
        try:
            peaks = spread(recipe.schedule.peak, len(groups))
        except ValueError as error:
            raise RunError(f"schedule.peak: {error}") from error
        self._all = _build(groups, peaks, recipe)
        self.peak = max(peaks)
        """The highest peak rate of all layer groups."""

    def set(self, rate: Rate) -> None:
        """Set the rate of the next step."""
        for optimizer in self._all:
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * rate.share
                if "betas" in group:
                    group["betas"] = (rate.momentum, group["betas"][1])
                elif not isinstance(optimizer, Muon):
                    group["momentum"] = rate.momentum

    def step(self) -> None:
        """Update the parameters, and delete the gradients."""
        for optimizer in self._all:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    def state(self) -> dict[str, Tensor]:
        """Return momenta and step counts by name, for a checkpoint."""
        return state_by_name(self._all)

    def restore(self, state: dict[str, Tensor]) -> None:
        """Continue from a `state`."""
        restore_by_name(self._all, state)


def state_by_name(optimizers: Sequence[torch.optim.Optimizer]) -> dict[str, Tensor]:
    """Return momenta and step counts by name: NUMBER.PARAMETER.KEY."""
    return {
        f"{number}.{parameter}.{key}": value
        for number, optimizer in enumerate(optimizers)
        for parameter, values in optimizer.state_dict()["state"].items()
        for key, value in values.items()
        if value is not None
    }


def restore_by_name(
    optimizers: Sequence[torch.optim.Optimizer], state: Mapping[str, Tensor]
) -> None:
    """Continue from what `state_by_name` returned."""
    for number, optimizer in enumerate(optimizers):
        values: dict[int, dict[str, Tensor]] = {}
        for name, value in state.items():
            owner, parameter, key = name.split(".")
            if int(owner) == number:
                values.setdefault(int(parameter), {})[key] = value
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": values, "param_groups": groups})


def _build(
    groups: list[nn.Module], peaks: list[float], recipe: Recipe
) -> list[torch.optim.Optimizer]:
    choice = recipe.optimizer
    convolutions: list[dict[str, Any]] = []
    others: list[dict[str, Any]] = []
    largest = max(peaks)
    head = groups[-1]
    for group, peak in zip(groups, peaks, strict=True):
        kernels, weights, biases = _sorted(group)
        if choice.kind == "muon" and group is not head:  # no norm follows the head
            scaled = choice.muon_peak * peak / largest
            convolutions.append({"params": kernels, "peak": scaled})
        else:
            weights = kernels + weights
        decay = choice.weight_decay
        others.append({"params": weights, "peak": peak, "weight_decay": decay})
        others.append({"params": biases, "peak": peak * choice.bias_scale, "weight_decay": 0.0})
    convolutions = [group for group in convolutions if group["params"]]
    others = [group for group in others if group["params"]]
    if choice.kind == "adamw":
        return [torch.optim.AdamW(others, lr=0.0)]
    sgd = torch.optim.SGD(others, lr=0.0, momentum=0.9, nesterov=True)
    if not convolutions:
        return [sgd]
    return [Muon(convolutions, lr=0.0, momentum=choice.muon_momentum), sgd]


def _sorted(module: nn.Module) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    kernels: list[Tensor] = []
    weights: list[Tensor] = []
    biases: list[Tensor] = []
    for parameter in module.parameters():
        {4: kernels, 2: weights}.get(parameter.ndim, biases).append(parameter)
    return kernels, weights, biases
