"""Statistics of each layer's activations during training."""

import math
from collections.abc import Callable

import torch
from pydantic import JsonValue
from torch import Tensor, nn

from models import ClassMapNetwork
from pipeline.training.callbacks import Callback
from pipeline.training.record import Batch
from pipeline.training.trainer import Trainer

# The statistics of a layer of any size take about 0.4 ms of a CPU core: for one batch in ten that
# is below 5 % of the shortest training run. `python -m bench.activation_cost` measures it.
EVERY = 10
BINS = 40
NEAR_ZERO = 0.05
# Histogram ranges of ReLU outputs, as in fast.ai's ActivationStats (2020), and of logits.
RELU_RANGE, LOGIT_RANGE = (0.0, 10.0), (-10.0, 10.0)
# Few values are fast, and with these a share is within 0.6 points (two standard deviations).
SAMPLE = 2**15


class ActivationStatistics(Callback):
    """Callback that measures the outputs of every ReLU, and the logits, in every n-th batch.

    Means, deviations, shares near zero and histograms over training show layers that die or
    explode ("the colorful dimension" by Giomo, as drawn in fastbook's chapter 13 (2020)). Hooks
    exist only during a measured batch, and no random number is drawn, so that training on a CPU
    gives the same weights with this callback and without it. On a GPU a measured batch runs
    uncompiled. In distributed training the first process measures its part of the batch.

    Args:
        every: n; the first batch is measured, too.

    """

    def __init__(self, every: int = EVERY) -> None:
        self._every = every
        self._watched: dict[str, nn.Module] = {}
        self._hooks: list[torch.utils.hooks.RemovableHandle] = []
        self._samples: dict[str, Tensor] = {}
        self._steps: list[int] = []
        self._columns: list[Tensor] = []
        self._before: Tensor | None = None
        """Measurements before a resume, on the CPU."""

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the measured layers, in the network's order; empty before training begins."""
        return tuple(self._watched)

    @property
    def histogram_ranges(self) -> tuple[tuple[float, float], ...]:
        """First and last edge of each layer's histograms; the end bins count values outside."""
        return tuple(_range(module) for module in self._watched.values())

    def begin_training(self, trainer: Trainer) -> None:
        """Find the layers to measure."""
        self._watched = watched_layers(trainer.network)

    def begin_batch(self, trainer: Trainer) -> None:
        """Attach the hooks, if this batch is measured."""
        if trainer.step % self._every:
            return
        # In all processes: they wait for each other, so they should run the same code.
        trainer.eager = True
        if trainer.world.leads:
            for name, module in self._watched.items():
                self._hooks.append(module.register_forward_hook(self._keep(name)))

    def end_batch(self, trainer: Trainer, batch: Batch) -> None:
        """Detach the hooks, and measure the outputs that they kept."""
        trainer.eager = False
        if not self._hooks:
            return
        self._detach()
        # They stay on the device: copying them would make a GPU wait.
        self._columns.append(
            torch.stack(
                [
                    _measured(self._samples[name], _range(module))
                    for name, module in self._watched.items()
                ]
            )
        )
        self._steps.append(batch.step)
        self._samples.clear()

    def end_training(self, trainer: Trainer) -> None:
        """Detach the hooks, if training failed in a measured batch."""
        trainer.eager = False
        self._detach()
        self._samples.clear()

    def state(self) -> dict[str, Tensor]:
        """Return the statistics of T batches and L layers; empty before the first batch.

        `steps` (T,), counted from 1; `means`, `deviations` and `near_zero` (L, T); `histograms`
        (L, T, 40), counts of at most 2^15 values.
        """
        if not self._steps:
            return {}
        parts = [] if self._before is None else [self._before]
        if self._columns:  # one transfer from a GPU
            parts.append(torch.stack(self._columns, 1).cpu())
        measured = torch.cat(parts, 1)
        means, deviations, near_zero = measured[..., :3].unbind(2)
        return {
            "steps": torch.tensor(self._steps),
            "means": means.contiguous(),
            "deviations": deviations.contiguous(),
            "near_zero": near_zero.contiguous(),
            "histograms": measured[..., 3:].contiguous(),
        }

    def metadata(self) -> dict[str, JsonValue]:
        """Return the layers' names and the edges of their histograms."""
        ranges: list[JsonValue] = [list(edges) for edges in self.histogram_ranges]
        return {"layers": list(self.layers), "histogram_ranges": ranges}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Continue from a `state`."""
        if not state:
            return
        figures = torch.stack([state[name] for name in ("means", "deviations", "near_zero")], 2)
        self._steps = state["steps"].tolist()
        self._before = torch.cat([figures, state["histograms"]], 2)

    def _keep(self, name: str) -> Callable[[nn.Module, object, Tensor], None]:
        def hook(module: nn.Module, inputs: object, output: Tensor) -> None:
            # A copy, since a later layer may change the output in place.
            self._samples[name] = sample(output.detach()).float().clone()

        return hook

    def _detach(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()


def watched_layers(network: ClassMapNetwork) -> dict[str, nn.Module]:
    """Find each ReLU, by the name of the layer that it ends, and the head.

    If a layer calls its ReLU twice, as torchvision's blocks do, the last output counts.
    """
    watched: dict[str, nn.Module] = {}
    for name, module in network.named_modules():
        if isinstance(module, nn.ReLU):
            layer = name.rpartition(".")[0]
            watched[name if layer == "features" else layer] = module
    return watched | {"head": network.head}


def sample(values: Tensor) -> Tensor:
    """Take every n-th of `values` (N, C, ...), channels last, so that about 2^15 remain.

    n and the number of values have no common factor, so that all channels, rows and columns are
    sampled alike.
    """
    flat = values.movedim(1, -1).flatten()
    step = max(1, len(flat) // SAMPLE)
    while math.gcd(step, len(flat)) != 1:
        step += 1
    return flat[::step]


def _range(module: nn.Module) -> tuple[float, float]:
    return RELU_RANGE if isinstance(module, nn.ReLU) else LOGIT_RANGE


def _measured(values: Tensor, edges: tuple[float, float]) -> Tensor:
    """Compute mean, deviation, share near zero and histogram of float32 (M,): (3 + 40,)."""
    deviation, mean = torch.std_mean(values, correction=0)
    near_zero = (values.abs() < NEAR_ZERO).float().mean()
    counts = torch.histc(values.clamp(*edges), BINS, *edges)
    return torch.cat([torch.stack([mean, deviation, near_zero]), counts])
