"""Recurrent cells: one step of time, and the loop around it."""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor, nn


class Cell(Protocol):
    """One step: input (N, in) and hidden state (N, hidden) -> the next hidden state."""

    def __call__(self, x: Tensor, h: Tensor) -> Tensor: ...


class GRUCell(nn.Module):
    """Gated recurrent unit (Cho et al., 2014), written out; it equals `nn.GRUCell`.

    The reset gate says how much of the old state the new proposal sees, and the update gate how
    much of the old state stays. A gate that stays open carries a value, and its gradient, over
    many steps: that is why gates help.
    """

    def __init__(self, size: int, hidden: int) -> None:
        super().__init__()
        # The names and the order (reset, update, new) are those of `nn.GRUCell`.
        bound = hidden**-0.5
        shapes = {"ih": (3 * hidden, size), "hh": (3 * hidden, hidden)}
        for name, shape in shapes.items():
            weight, bias = torch.empty(shape), torch.empty(3 * hidden)
            self.register_parameter(f"weight_{name}", nn.Parameter(weight.uniform_(-bound, bound)))
            self.register_parameter(f"bias_{name}", nn.Parameter(bias.uniform_(-bound, bound)))

    weight_ih: Tensor
    weight_hh: Tensor
    bias_ih: Tensor
    bias_hh: Tensor

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        """Take one step: (N, in) and (N, hidden) -> (N, hidden)."""
        of_input = nn.functional.linear(x, self.weight_ih, self.bias_ih).chunk(3, 1)
        of_state = nn.functional.linear(h, self.weight_hh, self.bias_hh).chunk(3, 1)
        reset = torch.sigmoid(of_input[0] + of_state[0])
        update = torch.sigmoid(of_input[1] + of_state[1])
        new = torch.tanh(of_input[2] + reset * of_state[2])
        return update * h + (1 - update) * new


def unroll(cell: Cell | Callable[[Tensor, Tensor], Tensor], x: Tensor, h: Tensor) -> Tensor:
    """Run a cell over time: (T, N, in) and (N, hidden) -> all hidden states (T, N, hidden)."""
    states = []
    for each in x:
        h = cell(each, h)
        states.append(h)
    return torch.stack(states)
