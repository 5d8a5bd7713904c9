"""A network layer by layer: shapes, parameters, multiplications and what an activation sees."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod

import torch
from rich.table import Table
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from models import ClassMapNetwork
from pipeline.errors import PipelineError
from pipeline.evaluation.receptive_field import Reach, farthest

SILENT = (nn.Dropout, nn.Identity)

LayerHook = Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerSummary:
    """One layer of a network; shapes are of one image, without N."""

    name: str
    kind: str
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    parameters: int
    weights: int
    """Numbers in its kernel or matrix, each of which multiplies at every position."""
    reach: Reach | None
    """Nothing for a layer behind global pooling: it sees the whole image."""

    @property
    def multiplications(self) -> int:
        """Products that the layer computes for an image, without its bias or normalisation."""
        return self.weights * prod(self.output_shape[1:])

    @property
    def multiplications_on_its_input(self) -> int:
        """As fastbook's chapter 13 (2020) counts: at every position of the input.

        So a stride of 2 saves nothing in the layer itself, only in those that follow.
        """
        return self.weights * prod(self.input_shape[1:])


def summarise(
    network: ClassMapNetwork, in_channels: int, height: int, width: int
) -> list[LayerSummary]:
    """Describe each layer in the order of one forward pass, in evaluation mode.

    Where branches meet, as in a residual sum, the farther reach counts.

    Raises:
        PipelineError: the network takes no images of that size.

    """
    recorder = _Recorder()
    device = next(network.parameters()).device
    images = torch.zeros(1, in_channels, height, width, device=device)
    with _evaluating(network), recorder.watching(network), torch.inference_mode():
        try:
            network(images)
        except RuntimeError as error:
            raise PipelineError(
                f"the network takes no images of {height}x{width} pixels in {in_channels} "
                f"channels ({error}); choose another size"
            ) from error
    return recorder.rows


def render(rows: Iterable[LayerSummary]) -> Table:
    """Lay the summary out, with its totals at the foot."""
    rows = list(rows)
    table = Table(show_footer=True, caption=_CAPTION, caption_justify="left")
    table.add_column("layer", footer="total", overflow="fold")
    table.add_column("kind")
    for heading, total in (
        ("output", None),
        ("parameters", sum(row.parameters for row in rows)),
        ("multiplications", sum(row.multiplications for row in rows)),
        ("on its input", sum(row.multiplications_on_its_input for row in rows)),
        ("sees", None),
        ("every", None),
    ):
        footer = "" if total is None else f"{total:,}"
        table.add_column(heading, footer=footer, justify="right", no_wrap=True)
    for row in rows:
        sees, every = ("all", "") if row.reach is None else (_side(row.reach), str(row.reach.jump))
        table.add_row(
            row.name,
            row.kind,
            "x".join(map(str, row.output_shape)),
            _count(row.parameters),
            _count(row.multiplications),
            _count(row.multiplications_on_its_input),
            sees,
            every,
        )
    return table


_CAPTION = (
    "Multiplications of one image; on its input: at every position that the layer is given, as "
    "fastbook's chapter 13 counts. An activation sees so many pixels of the image, and its "
    "neighbour those so many further on (every)."
)


def _count(number: int) -> str:
    return f"{number:,}" if number else ""


def _side(reach: Reach) -> str:
    return f"{reach.field}x{reach.field}"


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(training)


class _Recorder:
    """Follows a forward pass through hooks, by the identity of the tensors that go around."""

    def __init__(self) -> None:
        self.rows: list[LayerSummary] = []
        self._reaches: dict[int, Reach | None] = {}
        # Kept, so that no later tensor takes an earlier one's identity.
        self._tensors: list[Tensor] = []
        self._history: list[Reach] = [Reach()]
        self._entered: list[int] = []

    @contextmanager
    def watching(self, network: nn.Module) -> Iterator[None]:
        """Record what runs in the block."""
        handles: list[RemovableHandle] = []
        for name, module in network.named_modules():
            if list(module.children()):
                handles.append(module.register_forward_pre_hook(self._enter))
                handles.append(module.register_forward_hook(self._leave))
            else:
                handles.append(module.register_forward_hook(self._layer(name)))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _enter(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self._entered.append(len(self._history))

    def _leave(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        """A sum that a block returns reaches as far as the farthest layer in the block."""
        within = self._history[self._entered.pop() :]
        if id(output) not in self._reaches:
            self._remember(output, farthest([self._reach_of(inputs[0]) or Reach(), *within]))

    def _layer(self, name: str) -> LayerHook:
        def record(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            reach = self._reach_of(inputs[0])
            if reach is not None:
                reach = reach.through(module)
                self._history.append(reach)
            self._remember(output, reach)
            if isinstance(module, SILENT):
                return
            self.rows.append(
                LayerSummary(
                    name=name,
                    kind=type(module).__name__,
                    input_shape=tuple(inputs[0].shape[1:]),
                    output_shape=tuple(output.shape[1:]),
                    parameters=sum(parameter.numel() for parameter in module.parameters()),
                    weights=_weights(module),
                    reach=reach,
                )
            )

        return record

    def _reach_of(self, tensor: Tensor) -> Reach | None:
        if tensor.ndim == 2:  # behind the head's pooling
            return None
        return self._reaches.get(id(tensor), farthest(self._history))

    def _remember(self, tensor: Tensor, reach: Reach | None) -> None:
        self._tensors.append(tensor)
        self._reaches[id(tensor)] = reach


def _weights(module: nn.Module) -> int:
    """How many numbers of a convolution's kernel (4 axes) or a matrix (2) there are."""
    weight = getattr(module, "weight", None)
    return weight.numel() if isinstance(weight, Tensor) and weight.ndim > 1 else 0
