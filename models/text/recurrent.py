"""Recurrent networks: embedding, `nn.RNN`, `nn.GRU` or `nn.LSTM`, and a linear layer."""

from collections.abc import Callable
from typing import ClassVar

from torch import Tensor, nn

from models.text.cells import unroll
from models.text.network import State, TextNetwork
from models.text.options import TextOptions


class CharRNN(TextNetwork):
    """`nn.RNN` from a state of zeros, with a prediction after each character.

    The hidden matrix begins as the identity (Le et al., 2015), so that the state is kept at first.
    """

    state_names: ClassVar[tuple[str, ...]] = ("hidden",)
    stacks: ClassVar[bool] = True

    def __init__(self, vocabulary: int, options: TextOptions) -> None:
        super().__init__(vocabulary, options)
        self.embed = nn.Embedding(vocabulary, options.embedding)
        self.recurrent = self._layer()
        self.dropout = nn.Dropout(options.output_dropout)
        self.out = nn.Linear(options.hidden, vocabulary)

    def _layer(self) -> nn.Module:
        layer = _stacked(nn.RNN, self.options)
        for name, weight in layer.named_parameters():
            if name.startswith("weight_hh"):
                nn.init.eye_(weight)
        return layer

    def forward(self, characters: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Predict the character after each of `characters`."""
        return self.step(characters, self.state_for(characters, state))

    def step(self, characters: Tensor, state: State) -> tuple[Tensor, State]:
        """Do the same with a state that is known to fit, which an export can trace."""
        outputs, state = self._run(self.embed(characters), state)
        return self.out(self.dropout(outputs)), state

    def _run(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """Run the layer: (T, N, embedding) -> outputs (T, N, hidden), and the state behind."""
        outputs, hidden = self.recurrent(x, state[0])
        return outputs, (hidden,)


class CharStateful(CharRNN):
    """`nn.RNN` whose state goes on from batch to batch, so that it sees the whole text before.

    Its history is cut between batches; see `cut_history`.
    """

    keeps_state = True

    def _layer(self) -> nn.Module:
        return _stacked(nn.RNN, self.options)


class CharRNNCell(CharStateful):
    """`CharStateful` as a loop over `nn.RNNCell`; with the same weights it is the same."""

    stacks = False

    def _layer(self) -> nn.Module:
        return nn.RNNCell(self.options.embedding, self.options.hidden)

    def _run(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        outputs = unroll(self.recurrent, x, state[0][0])
        return outputs, (outputs[-1:],)


class CharGRU(CharStateful):
    """`CharStateful` with gated recurrent units, `nn.GRU`; `GRUCell` is one written out."""

    def _layer(self) -> nn.Module:
        return _stacked(nn.GRU, self.options)


class CharLSTM(CharStateful):
    """`CharStateful` with long short-term memory (Hochreiter and Schmidhuber, 1997), `nn.LSTM`.

    Its state has two parts, the hidden state and the cell.
    """

    state_names = ("hidden", "cell")

    def _layer(self) -> nn.Module:
        return _stacked(nn.LSTM, self.options)

    def _run(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        hidden, cell = state
        outputs, (hidden, cell) = self.recurrent(x, (hidden, cell))
        return outputs, (hidden, cell)


def _stacked(kind: Callable[..., nn.Module], options: TextOptions) -> nn.Module:
    """Make recurrent layers above each other, with dropout between them."""
    return kind(
        options.embedding, options.hidden, num_layers=options.layers, dropout=options.dropout
    )
