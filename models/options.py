"""The options of a network that a recipe may set."""

from dataclasses import dataclass, fields
from typing import Literal

Norm = Literal["batch", "lesson", "group", "layer", "none"]
Order = Literal["norm-relu", "relu-norm"]
Pool = Literal["average", "max"]


@dataclass(frozen=True, kw_only=True, slots=True)
class NetworkOptions:
    """An architecture by its name in `ARCHITECTURES`, and the options to build it with."""

    architecture: str
    widths: tuple[int, ...] = ()
    """Channels of each stage; each architecture defines how many stages it has."""
    norm: Norm = "batch"
    """Normalisation of a layer's output; `lesson` is that of `BnLayer`, written out."""
    order: Order = "norm-relu"
    pool: Pool = "average"
    """Pooling of the head. Average pooling gives exact maps, max pooling approximate ones."""
    dropout: float = 0.0
    """Share of the pooled features that training drops."""
    whiten: bool = False
    """Fix the first layer to the whitened patches of the training images (Jordan, 2024)."""
    pretrained: bool = False
    """Initialise from the weights that torchvision publishes."""
    weights: str | None = None
    """Record of the file that a run was initialised from: its name and its SHA-256.

    The network can be built without the file.
    """


DEFAULTS = {field.name: field.default for field in fields(NetworkOptions)}


def reject_options(options: NetworkOptions, *names: str) -> None:
    """Reject options that the architecture would ignore.

    Raises:
        ValueError: an option in `names` is not at its default; the message names the first one.

    """
    for name in names:
        value = getattr(options, name)
        if value != DEFAULTS[name]:
            raise ValueError(
                f"{options.architecture} takes no {name} (it is {value!r}); leave it out"
            )
