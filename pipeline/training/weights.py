"""A network's weights by their names, and the network that they belong to."""

from dataclasses import replace

from torch import Tensor

from models import ClassMapNetwork, NetworkOptions, WeightsUnavailable, build_network
from pipeline.errors import RunError
from pipeline.training.recipe import Recipe

Weights = dict[str, Tensor]


def make_network(recipe: Recipe, *, channels: int, classes: int) -> ClassMapNetwork:
    """The recipe's network, freshly initialised from torch's global random state.

    Raises:
        RunError: there is no such network, its options contradict each other, or the weights it
            should begin with cannot be had.

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
    """The network that `weights` belong to, in evaluation mode; `name` is for the message.

    Raises:
        RunError: there is no such network, or the weights are another's.

    """
    try:
        # Its weights are these, wherever the first ones came from.
        options = replace(options, pretrained=False)
        network = build_network(options, in_channels=channels, classes=classes)
        network.load_state_dict(weights)
    except (ValueError, RuntimeError) as error:
        raise RunError(f"{name}: its weights are not its network's ({error})") from error
    return network.eval()


def copied(weights: Weights) -> Weights:
    """Each tensor's values, on the CPU and in memory of its own."""
    return {
        name: value.detach().to("cpu", copy=True).contiguous() for name, value in weights.items()
    }


def under(prefix: str, state: Weights) -> Weights:
    """The entries PREFIX.name of `state`, by name."""
    return {
        name.removeprefix(f"{prefix}."): value
        for name, value in state.items()
        if name.startswith(f"{prefix}.")
    }
