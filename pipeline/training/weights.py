"""Weights by name, and the network that they belong to."""

from dataclasses import replace

from torch import Tensor

from models import ClassMapNetwork, NetworkOptions, WeightsUnavailable, build_network
from pipeline.errors import RunError
from pipeline.training.recipe import Recipe

Weights = dict[str, Tensor]
HEAD = "head."
"""Prefix of the names of a head's weights."""


def check_finite(weights: Weights) -> None:
    """Check that all weights are numbers.

    Raises:
        RunError: some are not.

    """
    for name, values in weights.items():
        if not bool(values.isfinite().all()):
            raise RunError(f"{name} has values that are not finite: try a lower --lr")


def make_network(recipe: Recipe, *, channels: int, classes: int) -> ClassMapNetwork:
    """Build the recipe's network, initialised from torch's global random state.

    Raises:
        RunError: there is no such network, its options contradict each other, or its pretrained
            weights are not available.

    """
    try:
        return build_network(recipe.network, in_channels=channels, classes=classes)
    except ValueError as error:
        raise RunError(f"network: {error}") from error
    except WeightsUnavailable as error:
        raise RunError(str(error)) from error


def load_network(
    options: NetworkOptions, weights: Weights, *, name: str, channels: int, classes: int
) -> ClassMapNetwork:
    """Build a network with `weights`, in evaluation mode; error messages call it `name`.

    Raises:
        RunError: there is no such network, or the weights belong to another one.

    """
    # `weights` replace pretrained ones, so these need no download.
    options = replace(options, pretrained=False)
    try:
        network = build_network(options, in_channels=channels, classes=classes)
    except ValueError as error:
        raise RunError(f"{name}: {error}") from error
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise RunError(f"{name}: its weights are not its network's ({error})") from error
    return network.eval()


def initialise(network: ClassMapNetwork, weights: Weights, *, partly: bool = False) -> None:
    """Set the features of a network to `weights`, and the head, too, if they have one.

    With `partly`, weights of the features may be missing.

    Raises:
        RunError: the weights belong to another network.

    """
    own = network.state_dict()
    misfits = [
        name for name in weights if name not in own or own[name].shape != weights[name].shape
    ]
    if not partly:
        misfits += [name for name in own if name not in weights and not name.startswith(HEAD)]
    if misfits:
        raise RunError(
            f"network: the weights to begin with are of another one ({', '.join(misfits[:3])}): "
            "leave out what changes the network, or train from scratch"
        )
    network.load_state_dict(weights, strict=False)


def copied(weights: Weights) -> Weights:
    """Copy each tensor to the CPU, into memory of its own."""
    return {
        name: value.detach().to("cpu", copy=True).contiguous() for name, value in weights.items()
    }


def under(prefix: str, state: Weights) -> Weights:
    """Select the entries PREFIX.name of `state`, by name."""
    return {
        name.removeprefix(f"{prefix}."): value
        for name, value in state.items()
        if name.startswith(f"{prefix}.")
    }
