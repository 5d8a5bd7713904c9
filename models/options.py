"""What a recipe may choose about a network."""

from dataclasses import dataclass
from typing import Literal

Norm = Literal["batch", "lesson", "group", "layer", "none"]
Order = Literal["norm-relu", "relu-norm"]
Pool = Literal["average", "max"]


@dataclass(frozen=True, kw_only=True, slots=True)
class NetworkOptions:
    """An architecture by its name in `ARCHITECTURES`, and the choices that it is built with."""

    architecture: str
    widths: tuple[int, ...] = ()
    """Channels, stage by stage; each architecture says how many it takes."""
    norm: Norm = "batch"
    """What normalises a layer's output; `lesson` is `BnLayer`'s, written out."""
    order: Order = "norm-relu"
    pool: Pool = "average"
    """Of the head. The maps of an average are exact, those of a maximum approximate."""
    dropout: float = 0.0
    """Share of the pooled features that training leaves out."""
    whiten: bool = False
    """Fix the first layer to the whitened patches of the training images (Jordan, 2024)."""
    pretrained: bool = False
    """Begin with the weights that torchvision publishes."""
