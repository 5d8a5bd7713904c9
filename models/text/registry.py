"""The character language models, by name."""

from models.text.network import TextNetwork
from models.text.options import TextOptions
from models.text.recurrent import CharGRU, CharLSTM, CharRNN, CharRNNCell, CharStateful
from models.text.windowed import Char3, CharLoop

TEXT_NETWORKS: dict[str, type[TextNetwork]] = {
    "char3": Char3,
    "char-loop": CharLoop,
    "char-rnn": CharRNN,
    "char-stateful": CharStateful,
    "char-rnncell": CharRNNCell,
    "char-gru": CharGRU,
    "char-lstm": CharLSTM,
}


def build_text_network(options: TextOptions, *, vocabulary: int) -> TextNetwork:
    """Build a network for `vocabulary` characters, initialised from torch's random state.

    Raises:
        ValueError: there is no such network, or it does not have one of the options.

    """
    if options.architecture not in TEXT_NETWORKS:
        raise ValueError(
            f"no network {options.architecture!r}; there are: {', '.join(TEXT_NETWORKS)}"
        )
    kind = TEXT_NETWORKS[options.architecture]
    if options.layers != 1 and not kind.stacks:
        raise ValueError(f"{options.architecture} has one layer; leave `layers` out")
    if options.dropout and options.layers == 1:
        raise ValueError("dropout is between recurrent layers, and there is one; leave it out")
    if options.output_dropout and not kind.state_names:
        raise ValueError(f"{options.architecture} has no output_dropout; leave it out")
    return kind(vocabulary, options)
