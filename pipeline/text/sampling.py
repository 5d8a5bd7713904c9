"""Text from a character language model, one character after the other."""

import math
from collections.abc import Iterator
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from models.text.network import TextNetwork
from pipeline.errors import PipelineError
from pipeline.text.corpus import Vocabulary

Logits = NDArray[np.float32]
_UNKNOWN, _FILLER = 0, " "


class Stepper(Protocol):
    """Network that reads one text, and predicts what comes next."""

    def read(self, codes: list[int]) -> Logits:
        """Read more characters; return the logits (V,) of the one after them."""


class TorchStepper:
    """Network as a `Stepper`.

    A network that keeps its state gets each character once. Any other one gets the last `window`
    characters again for each prediction.
    """

    def __init__(self, network: TextNetwork, window: int | None) -> None:
        self._network, self._window = network.eval(), window
        self._state = network.initial_state(1)
        self._seen: list[int] = []

    def read(self, codes: list[int]) -> Logits:
        """Read more characters."""
        with torch.inference_mode():
            if self._window is None:
                logits, self._state = self._network(torch.tensor(codes)[:, None], self._state)
            else:
                self._seen = [*self._seen, *codes][-self._window :]
                logits, _ = self._network(torch.tensor(self._seen)[:, None])
        found: Logits = logits[-1, 0].float().numpy()
        return found


def window_of(network: TextNetwork, bptt: int) -> int | None:
    """Return how many characters a network sees; None: it keeps its state and sees all."""
    return network.window or (None if network.keeps_state else bptt)


def written(
    stepper: Stepper,
    vocabulary: Vocabulary,
    prompt: str,
    length: int,
    *,
    window: int | None,
    temperature: float = 1.0,
    seed: int = 0,
    greedy: bool = False,
) -> Iterator[str]:
    """Yield `length` characters that go on from `prompt`, one at a time.

    Each is drawn from the predicted distribution, whose logits are divided by the temperature: at
    less than 1 the likely ones become more likely. `greedy` takes the likeliest, and soon repeats
    itself. The unknown character is never written. A prompt shorter than `window` is filled up
    with spaces at its beginning.

    Raises:
        PipelineError: the temperature is not positive, or the prompt is empty.

    """
    if not 0 < temperature < math.inf:
        raise PipelineError(f"--temperature {temperature}: a positive number is needed")
    if not prompt:
        raise PipelineError("the prompt is empty; give at least one character")
    rng = np.random.default_rng(seed)
    codes = vocabulary.encode(prompt.rjust(window or 0, _FILLER)).tolist()
    for _ in range(length):
        logits = stepper.read(codes).astype(np.float64)
        logits[_UNKNOWN] = -np.inf
        if greedy:
            code = int(logits.argmax())
        else:
            shares = np.exp((logits - logits.max()) / temperature)
            code = int(rng.choice(len(shares), p=shares / shares.sum()))
        codes = [code]
        yield vocabulary.decode(codes)


def sample(
    network: TextNetwork,
    vocabulary: Vocabulary,
    prompt: str,
    length: int,
    *,
    bptt: int,
    temperature: float = 1.0,
    seed: int = 0,
    greedy: bool = False,
) -> str:
    """Return the prompt and `length` characters that a network writes after it."""
    window = window_of(network, bptt)
    characters = written(
        TorchStepper(network, window),
        vocabulary,
        prompt,
        length,
        window=window,
        temperature=temperature,
        seed=seed,
        greedy=greedy,
    )
    return prompt + "".join(characters)
