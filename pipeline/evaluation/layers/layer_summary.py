"""Layers of a network: shapes, parameters, multiplications and receptive fields."""

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
from pipeline.evaluation.layers.receptive_field import ReceptiveField, merged, mixes_positions

SILENT = (nn.Dropout, nn.Identity)

LayerHook = Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerSummary:
    """Layer of a network; shapes are those of one image, without N."""

    name: str
    kind: str
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    parameters: int
    weights: int
    """Number of weights in its kernel or matrix, each used once per output position."""
    receptive_field: ReceptiveField

    @property
    def multiplications(self) -> int:
        """Multiplications of the layer for one image, without bias and normalisation."""
        return self.weights * prod(self.output_shape[1:])

    @property
    def multiplications_on_its_input(self) -> int:
        """Multiplications counted at every input position, as in fastbook's chapter 13 (2020).

        By this count a stride of 2 saves nothing in the layer itself, only in later layers.
        """
        return self.weights * prod(self.input_shape[1:])


def summarise(
    network: ClassMapNetwork, in_channels: int, height: int, width: int
) -> list[LayerSummary]:
    """Describe each layer in the order of one forward pass, in evaluation mode.

    Where branches meet, as in a residual sum, the largest receptive field counts. If the code of a
    block takes a mean over all positions itself, this is noticed only when the mean is the input of
    a layer or the output of a block.

    Raises:
        PipelineError: the network does not accept images of that size.

    """
    recorder = _Recorder()
    device = next(network.parameters()).device
    images = torch.zeros(1, in_channels, height, width, device=device)
    with _evaluating(network), recorder.recording(network, images), torch.inference_mode():
        try:
            network(images)
        except RuntimeError as error:
            raise PipelineError(
                f"the network does not accept images of {height}x{width} pixels in {in_channels} "
                f"channels ({error}); choose another size"
            ) from error
    return recorder.rows


def render(rows: Iterable[LayerSummary]) -> Table:
    """Render the summary as a table with totals in the last row."""
    rows = list(rows)
    table = Table(show_footer=True, caption=_CAPTION, caption_justify="left")
    table.add_column("layer", footer="total", overflow="fold")
    table.add_column("kind")
    for heading, total in (
        ("output", None),
        ("parameters", sum(row.parameters for row in rows)),
        ("multiplications", sum(row.multiplications for row in rows)),
        ("on its input", sum(row.multiplications_on_its_input for row in rows)),
        ("field", None),
        ("jump", None),
    ):
        footer = "" if total is None else f"{total:,}"
        table.add_column(heading, footer=footer, justify="right", no_wrap=True)
    for row in rows:
        field, jump = _describe_field(row.receptive_field)
        table.add_row(
            row.name,
            row.kind,
            "x".join(map(str, row.output_shape)),
            _count(row.parameters),
            _count(row.multiplications),
            _count(row.multiplications_on_its_input),
            field,
            jump,
        )
    return table


_CAPTION = (
    "Multiplications for one image; on its input: counted at every input position, as in "
    "fastbook's chapter 13. Field: pixels of the image that an activation depends on. Jump: "
    "distance between the fields of neighbouring activations."
)


def _count(number: int) -> str:
    return f"{number:,}" if number else ""


def _describe_field(field: ReceptiveField) -> tuple[str, str]:
    """Describe size and jump; `all` is the whole image."""
    if field.is_whole:
        return "all", ""
    return f"{field.size}x{field.size}", str(field.jump)


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(training)


class _Recorder:
    """Forward hooks that record each layer, and the receptive field of each tensor by its id."""

    def __init__(self) -> None:
        self.rows: list[LayerSummary] = []
        self._fields: dict[int, ReceptiveField] = {}
        # Kept alive, so that no later tensor gets the id of an earlier one.
        self._tensors: list[Tensor] = []
        # A list for each block that the pass is in, outermost first: the field of the block's
        # input, then those of its layers and blocks so far.
        self._within = [[ReceptiveField()]]

    @contextmanager
    def recording(self, network: nn.Module, images: Tensor) -> Iterator[None]:
        """Record the forward pass of `images` in the block."""
        self._remember(images, ReceptiveField())
        handles: list[RemovableHandle] = []
        for name, module in network.named_modules():
            if list(module.children()):
                handles.append(module.register_forward_pre_hook(self._enter))
                handles.append(module.register_forward_hook(self._block(name)))
            else:
                handles.append(module.register_forward_hook(self._layer(name)))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _enter(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self._within.append([self._field_of(inputs[0])])

    def _block(self, name: str) -> LayerHook:
        """Record a block's output: the sum of its branches has the block's largest field."""

        def record(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            field = self._field_of(output)
            self._within.pop()
            self._within[-1].append(field)
            self._remember(output, field)
            # Some layers of timm, such as a BatchNorm with an activation, are blocks.
            if any(True for _ in module.parameters(recurse=False)):
                self._add_row(name, module, inputs[0], output, field)

        return record

    def _layer(self, name: str) -> LayerHook:
        def record(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            field = self._field_of(inputs[0])
            # What a layer of several inputs does cannot be tried out with one.
            mixes = len(inputs) == 1 and mixes_positions(module, inputs[0], output)
            field = field.whole() if mixes else field.through(module)
            self._within[-1].append(field)
            self._remember(output, field)
            if isinstance(module, SILENT):
                return
            self._add_row(name, module, inputs[0], output, field)

        return record

    def _add_row(
        self,
        name: str,
        module: nn.Module,
        received: Tensor,
        output: Tensor,
        field: ReceptiveField,
    ) -> None:
        self.rows.append(
            LayerSummary(
                name=name,
                kind=type(module).__name__,
                input_shape=tuple(received.shape[1:]),
                output_shape=tuple(output.shape[1:]),
                parameters=sum(each.numel() for each in module.parameters(recurse=False)),
                weights=_weights(module),
                receptive_field=field,
            )
        )

    def _field_of(self, tensor: Tensor) -> ReceptiveField:
        """Return the field of a layer's output, or of a function of what is in the block so far."""
        if id(tensor) in self._fields:
            return self._fields[id(tensor)]
        field = merged(self._within[-1])
        # One position where the layer before had several: a mean over positions, or the like.
        pooled = _has_one_position(tensor) and not _has_one_position(self._tensors[-1])
        return field.whole() if pooled or tensor.ndim < 4 else field

    def _remember(self, tensor: Tensor, field: ReceptiveField) -> None:
        self._tensors.append(tensor)
        self._fields[id(tensor)] = field


def _has_one_position(tensor: Tensor) -> bool:
    """Tell whether a map has one position, with the channels first or last; so does a vector."""
    return 1 in (prod(tensor.shape[2:]), prod(tensor.shape[1:3]))


def _weights(module: nn.Module) -> int:
    """Count the weights of a convolution's kernel or of a matrix."""
    weight = getattr(module, "weight", None)
    return weight.numel() if isinstance(weight, Tensor) and weight.ndim > 1 else 0
