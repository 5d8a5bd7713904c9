"""State of the random numbers of a run, which a resumed run continues."""

import torch

from pipeline.training.weights import Weights

_ORDER, _TORCH, _CUDA = "random.order", "random.torch", "random.cuda"


def random_state(own: torch.Generator, device: torch.device) -> Weights:
    """Return the states of a run's own generator, of torch's, and of the GPU's."""
    state = {_ORDER: own.get_state(), _TORCH: torch.get_rng_state()}
    if device.type == "cuda":
        state[_CUDA] = torch.cuda.get_rng_state(device)
    return state


def restore_random_state(state: Weights, own: torch.Generator, device: torch.device) -> None:
    """Continue from `random_state`.

    A run that began on a CPU has no state of a GPU; then the GPU's generator stays as it is.

    Raises:
        KeyError: a state is missing.
        RuntimeError: a tensor is not the state of a generator.

    """
    own.set_state(state[_ORDER])
    torch.set_rng_state(state[_TORCH])
    if device.type == "cuda" and _CUDA in state:
        torch.cuda.set_rng_state(state[_CUDA], device)
