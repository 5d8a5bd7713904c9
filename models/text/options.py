"""Options of a character language model; reading them needs no torch."""

from dataclasses import dataclass

ARCHITECTURES = (
    "char3", "char-loop", "char-rnn", "char-stateful", "char-rnncell", "char-gru", "char-lstm",
)  # fmt: skip
"""In the order of the lesson."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TextOptions:
    """An architecture of `ARCHITECTURES`, and its sizes."""

    architecture: str
    embedding: int = 42
    """Length of the vector that stands for a character."""
    hidden: int = 256
    """Length of the hidden state."""
    layers: int = 1
    """Recurrent layers above each other."""
    dropout: float = 0.0
    """Share of the values between two recurrent layers that training drops."""
    output_dropout: float = 0.0
    """Share of the last recurrent layer's outputs that training drops (Zaremba et al., 2014)."""
