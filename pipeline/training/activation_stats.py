"""How each layer's activations are spread while a network learns."""

import math
from collections.abc import Callable

import torch
from pydantic import JsonValue
from torch import Tensor, nn

from models import ClassMapNetwork
from pipeline.training.callbacks import Batch, Callback
from pipeline.training.trainer import Trainer

# A layer's figures take about 0.4 ms of a CPU core, whatever its size: one batch in ten keeps that
# below 5 % of the shortest training. `python -m bench.activation_cost` measures it.
EVERY = 10
BINS = 40
NEAR_ZERO = 0.05
# Of what follows a ReLU, as in fast.ai's ActivationStats (2020), and of logits.
RELU_RANGE, LOGIT_RANGE = (0.0, 10.0), (-10.0, 10.0)
# Few enough to cost little, and enough for a share to be within 0.6 points (two deviations).
SAMPLE = 2**15


class ActivationStatistics(Callback):
    """Watches what leaves every ReLU, and the logits, in every so many-th batch.

    Means, deviations, shares near zero and histograms over training show layers that die or
    explode ("the colorful dimension" of Giomo's, as fastbook's chapter 13 (2020) draws it). Hooks
    are there for the watched batch only, and no random number is drawn, so that a training on a
    CPU gives the same weights with this callback and without it. On a GPU a watched batch runs
    uncompiled. Of processes that train together the first one watches its part of the batch.

    Args:
        every: batches from one that is watched to the next.

    """

    def __init__(self, every: int = EVERY) -> None:
        self._every = every
        self._watched: dict[str, nn.Module] = {}
        self._hooks: list[torch.utils.hooks.RemovableHandle] = []
        self._samples: dict[str, Tensor] = {}
        self._steps: list[int] = []
        self._columns: list[Tensor] = []

    @property
    def layers(self) -> tuple[str, ...]:
        """The watched layers' names, in the network's order; none before the training began."""
        return tuple(self._watched)

    @property
    def histogram_ranges(self) -> tuple[tuple[float, float], ...]:
        """The first and the last edge of each layer's histograms; what is outside is in the end."""
        return tuple(_range(module) for module in self._watched.values())

    def begin_training(self, trainer: Trainer) -> None:
        """Find the layers."""
        self._watched = watched_layers(trainer.network)

    def begin_batch(self, trainer: Trainer) -> None:
        """Attach the hooks, where this batch is to be watched."""
        if trainer.step % self._every:
            return
        # All processes, since those that wait for each other had better run the same code.
        trainer.eager = True
        if trainer.world.leads:
            for name, module in self._watched.items():
                self._hooks.append(module.register_forward_hook(self._keep(name)))

    def end_batch(self, trainer: Trainer, batch: Batch) -> None:
        """Detach the hooks, and measure what they kept."""
        trainer.eager = False
        if not self._hooks:
            return
        self._detach()
        # Left on the device: fetching them would make a GPU wait.
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
        """Leave nothing behind, if the training failed in a watched batch."""
        trainer.eager = False
        self._detach()
        self._samples.clear()

    def state(self) -> dict[str, Tensor]:
        """What was measured in T batches of L layers; nothing before the first.

        `steps` (T,), counted from 1; `means`, `deviations` and `near_zero` (L, T); `histograms`
        (L, T, 40), counts of at most 2^15 values.
        """
        if not self._columns:
            return {}
        measured = torch.stack(self._columns, 1).cpu()
        means, deviations, near_zero = measured[..., :3].unbind(2)
        return {
            "steps": torch.tensor(self._steps),
            "means": means.contiguous(),
            "deviations": deviations.contiguous(),
            "near_zero": near_zero.contiguous(),
            "histograms": measured[..., 3:].contiguous(),
        }

    def metadata(self) -> dict[str, JsonValue]:
        """The layers' names and the edges of their histograms."""
        ranges: list[JsonValue] = [list(edges) for edges in self.histogram_ranges]
        return {"layers": list(self.layers), "histogram_ranges": ranges}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from what `state` gave."""
        if not state:
            return
        figures = torch.stack([state[name] for name in ("means", "deviations", "near_zero")], 2)
        measured = torch.cat([figures, state["histograms"]], 2)
        self._steps, self._columns = state["steps"].tolist(), list(measured.unbind(1))

    def _keep(self, name: str) -> Callable[[nn.Module, object, Tensor], None]:
        def hook(module: nn.Module, inputs: object, output: Tensor) -> None:
            # A copy: what follows may change the output in place.
            self._samples[name] = sample(output.detach()).float().clone()

        return hook

    def _detach(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()


def watched_layers(network: ClassMapNetwork) -> dict[str, nn.Module]:
    """Each ReLU by the name of the layer it ends, and the head.

    Of a ReLU that its layer calls twice, as torchvision's blocks do, the last output counts.
    """
    watched: dict[str, nn.Module] = {}
    for name, module in network.named_modules():
        if isinstance(module, nn.ReLU):
            layer = name.rpartition(".")[0]
            watched[name if layer == "features" else layer] = module
    return watched | {"head": network.head}


def sample(values: Tensor) -> Tensor:
    """Every so many-th of `values` (N, C, ...), channels last, so that few more than 2^15 remain.

    The step shares no factor with their number, so that it goes through all channels, rows and
    columns alike.
    """
    flat = values.movedim(1, -1).flatten()
    step = max(1, len(flat) // SAMPLE)
    while math.gcd(step, len(flat)) != 1:
        step += 1
    return flat[::step]


def _range(module: nn.Module) -> tuple[float, float]:
    return RELU_RANGE if isinstance(module, nn.ReLU) else LOGIT_RANGE


def _measured(values: Tensor, edges: tuple[float, float]) -> Tensor:
    """Mean, deviation, share near zero and histogram of float32 values (M,): (3 + 40,)."""
    deviation, mean = torch.std_mean(values, correction=0)
    near_zero = (values.abs() < NEAR_ZERO).float().mean()
    counts = torch.histc(values.clamp(*edges), BINS, *edges)
    return torch.cat([torch.stack([mean, deviation, near_zero]), counts])
