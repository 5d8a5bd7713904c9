"""Networks that see a fixed number of characters: three, then any number in a loop."""

from typing import ClassVar

import torch
from torch import Tensor, nn

from models.text.network import State, TextNetwork
from models.text.options import TextOptions


class Char3(TextNetwork):
    """Predict the fourth character from three: (3, N) -> logits (1, N, V).

    All three go through the same input matrix, and the same hidden matrix leads from each to the
    next: a recurrent network, written out.
    """

    window: ClassVar[int | None] = 3

    def __init__(self, vocabulary: int, options: TextOptions) -> None:
        super().__init__(vocabulary, options)
        self.embed = nn.Embedding(vocabulary, options.embedding)
        self.into = nn.Linear(options.embedding, options.hidden)
        self.hidden = nn.Linear(options.hidden, options.hidden)
        self.out = nn.Linear(options.hidden, vocabulary)

    def forward(self, characters: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Predict the character after the third."""
        first, second, third = (
            nn.functional.relu(self.into(self.embed(each))) for each in characters
        )
        h = torch.tanh(self.hidden(first))
        h = torch.tanh(self.hidden(h + second))
        h = torch.tanh(self.hidden(h + third))
        return self.out(h)[None], ()


class CharLoop(Char3):
    """`Char3` as a loop, for any number of characters: (n, N) -> logits (1, N, V).

    With three characters and the same weights it is `Char3`.
    """

    window: ClassVar[int | None] = 8

    def forward(self, characters: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Predict the character after the last."""
        h = torch.zeros((), device=characters.device)
        for each in characters:
            h = torch.tanh(self.hidden(h + nn.functional.relu(self.into(self.embed(each)))))
        return self.out(h)[None], ()
