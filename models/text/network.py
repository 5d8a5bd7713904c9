"""Base class of the character language models, and the handling of their hidden state."""

from typing import ClassVar

import torch
from torch import Tensor, nn

from models.text.options import TextOptions

State = tuple[Tensor, ...]
"""Hidden state: tensors of (layers, N, hidden). Networks without a state have an empty tuple."""


class TextNetwork(nn.Module):
    """Network that predicts the next character.

    `forward` maps characters (T, N), int64, and the state before them to logits (T, N, V) for the
    character after each of them, and the state behind them. Time comes first, as in the lesson.
    """

    keeps_state: ClassVar[bool] = False
    """True if the state behind a batch is the state before the next one."""
    window: ClassVar[int | None] = None
    """Number of characters that a prediction sees, if it is fixed; then logits are (1, N, V)."""
    stacks: ClassVar[bool] = False
    """True if it can have several recurrent layers above each other."""
    state_names: ClassVar[tuple[str, ...]] = ()

    def __init__(self, vocabulary: int, options: TextOptions) -> None:
        super().__init__()
        self.vocabulary, self.options = vocabulary, options

    def initial_state(self, streams: int) -> State:
        """Return the state before the first character of `streams` texts: zeros."""
        weight = next(self.parameters())
        size = self.options.layers, streams, self.options.hidden
        return tuple(weight.new_zeros(size) for _ in self.state_names)

    def state_for(self, characters: Tensor, state: State | None) -> State:
        """Return `state`, or zeros if there is none, or if it is that of another number of texts.

        The last batch of a text may have fewer streams, and a sample has a single one.
        """
        streams = characters.shape[1]
        if state is None or any(each.shape[1] != streams for each in state):
            return self.initial_state(streams)
        return state

    def forward(self, characters: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Predict the character after each of `characters`."""
        raise NotImplementedError


def cut_history(state: State) -> State:
    """Return the state without its history: gradients end here.

    The state goes on from batch to batch, its graph must not: otherwise each step would go back to
    the first character (back-propagation through time, truncated; Werbos, 1990).
    """
    return tuple(each.detach() for each in state)


def sequence_loss(logits_tnv: Tensor, targets_tn: Tensor) -> Tensor:
    """Return the mean cross-entropy over time and streams: (T, N, V) and (T, N) -> ().

    `cross_entropy` wants the classes in the second axis, and takes the others for positions: with
    three axes it would take the streams for classes. So time and streams become one axis.
    """
    flat: Tensor = nn.functional.cross_entropy(
        logits_tnv.flatten(0, 1).to(torch.promote_types(logits_tnv.dtype, torch.float32)),
        targets_tn.flatten(),
    )
    return flat
