"""Equalities of the lesson's networks and cells, and the wrinkles of their hidden state."""

from typing import cast

import pytest
import torch
from torch import Tensor, nn

from models.text.cells import GRUCell, unroll
from models.text.network import TextNetwork, cut_history, sequence_loss
from models.text.options import ARCHITECTURES, TextOptions
from models.text.recurrent import CharRNN
from models.text.registry import TEXT_NETWORKS, build_text_network

VOCABULARY = 11
RECURRENT = ARCHITECTURES[2:]
STATEFUL = ARCHITECTURES[3:]


def build(name: str, **options: int) -> TextNetwork:
    torch.manual_seed(0)
    sizes = {"embedding": 5, "hidden": 7} | options
    return build_text_network(TextOptions(architecture=name, **sizes), vocabulary=VOCABULARY)


def text(time: int, streams: int, seed: int = 0) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.randint(VOCABULARY, (time, streams), generator=rng)


def test_registry_has_the_lessons_networks_in_order() -> None:
    assert tuple(TEXT_NETWORKS) == ARCHITECTURES


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_networks_predict_the_next_character(name: str) -> None:
    network = build(name)
    time = network.window or 6
    logits, state = network(text(time, 4))
    assert logits.shape == (1 if network.window else time, 4, VOCABULARY)
    assert len(state) == len(network.state_names)
    # Only what came before counts: the last prediction depends on the first character.
    changed = text(time, 4)
    changed[0] += 1 - 2 * (changed[0] > 0).long()
    assert not torch.equal(network(changed)[0][-1], logits[-1])


@pytest.mark.parametrize("name", RECURRENT)
def test_prediction_does_not_see_the_characters_behind_it(name: str) -> None:
    network, characters = build(name), text(6, 4)
    whole, _ = network(characters)
    part, _ = network(characters[:3])
    torch.testing.assert_close(part, whole[:3])


def test_loop_over_three_characters_is_char3() -> None:
    three, loop = build("char3"), build("char-loop")
    loop.load_state_dict(three.state_dict())
    torch.testing.assert_close(loop(text(3, 4))[0], three(text(3, 4))[0], rtol=0, atol=0)


def test_loop_over_rnn_cell_is_nn_rnn() -> None:
    rnn, cell = build("char-stateful"), build("char-rnncell")
    cell.load_state_dict(
        {name.removesuffix("_l0"): value for name, value in rnn.state_dict().items()}
    )
    state = (torch.randn(1, 4, 7),)
    expected, found = rnn(text(6, 4), state), cell(text(6, 4), state)
    torch.testing.assert_close(found, expected)
    targets = text(6, 4, seed=1)
    for logits, _ in (expected, found):
        sequence_loss(logits, targets).backward()  # type: ignore[no-untyped-call]
    for name, parameter in cell.named_parameters():
        suffix = "_l0" if name.startswith("recurrent") else ""
        torch.testing.assert_close(parameter.grad, rnn.get_parameter(name + suffix).grad)


def test_written_out_gru_cell_is_nn_gru_cell() -> None:
    torch.manual_seed(0)
    own, theirs = GRUCell(5, 7), nn.GRUCell(5, 7)
    theirs.load_state_dict(own.state_dict())
    x, h = torch.randn(4, 5), torch.randn(4, 7)
    torch.testing.assert_close(own(x, h), theirs(x, h))
    own(x, h).square().sum().backward()
    theirs(x, h).square().sum().backward()
    for name, parameter in own.named_parameters():
        torch.testing.assert_close(parameter.grad, theirs.get_parameter(name).grad)


def test_loop_over_written_out_gru_cell_is_the_gru_of_char_gru() -> None:
    layer = cast(CharRNN, build("char-gru")).recurrent
    cell = GRUCell(5, 7)
    cell.load_state_dict(
        {name.removesuffix("_l0"): value for name, value in layer.state_dict().items()}
    )
    x, h = torch.randn(6, 4, 5), torch.randn(4, 7)
    torch.testing.assert_close(unroll(cell, x, h), layer(x, h[None])[0])


def test_recurrent_matrix_of_char_rnn_begins_as_the_identity() -> None:
    layer = cast(CharRNN, build("char-rnn")).recurrent
    assert torch.equal(cast(Tensor, layer.weight_hh_l0), torch.eye(7))


def test_lstm_has_two_layers_with_dropout_in_training_only() -> None:
    torch.manual_seed(0)
    options = TextOptions(architecture="char-lstm", hidden=32, layers=2, dropout=0.5)
    network = build_text_network(options, vocabulary=VOCABULARY)
    characters = text(6, 4)
    assert not torch.equal(network(characters)[0], network(characters)[0])
    network.eval()
    logits, state = network(characters)
    assert torch.equal(network(characters)[0], logits)
    assert [each.shape for each in state] == [(2, 4, 32), (2, 4, 32)]


@pytest.mark.parametrize("name", RECURRENT)
def test_output_dropout_drops_what_the_prediction_sees_and_not_the_state(name: str) -> None:
    characters = text(6, 4)
    expected, state = build(name)(characters)
    network = build(name, output_dropout=1)
    dropped, behind = network(characters)
    bias = cast(CharRNN, network).out.bias
    torch.testing.assert_close(dropped, bias.expand_as(dropped), rtol=0, atol=0)
    torch.testing.assert_close(behind, state, rtol=0, atol=0)
    torch.testing.assert_close(network.eval()(characters)[0], expected, rtol=0, atol=0)


@pytest.mark.parametrize("name", STATEFUL)
def test_state_goes_on_over_batches(name: str) -> None:
    network, characters = build(name), text(8, 4)
    whole, _ = network(characters)
    first, state = network(characters[:5])
    second, _ = network(characters[5:], cut_history(state))
    torch.testing.assert_close(torch.cat([first, second]), whole)
    assert network.keeps_state


@pytest.mark.parametrize("name", STATEFUL)
def test_history_is_cut_between_batches(name: str) -> None:
    """Without the cut, the second backward pass goes into the graph of the first, and fails."""
    network, characters, targets = build(name), text(8, 4), text(8, 4, seed=1)
    state = None
    for part in (slice(0, 4), slice(4, 8)):
        logits, state = network(characters[part], state)
        sequence_loss(logits, targets[part]).backward()  # type: ignore[no-untyped-call]
        with pytest.raises(RuntimeError, match="backward through the graph a second time"):
            network(characters[:4], state)[0].sum().backward()
        state = cut_history(state)
        assert all(each.grad_fn is None for each in state)


@pytest.mark.parametrize("name", STATEFUL)
def test_state_of_another_number_of_streams_is_replaced_by_zeros(name: str) -> None:
    """The last batch may be ragged: with the state of 4 streams, torch rejects 3."""
    network = build(name)
    _, state = network(text(8, 4))
    fewer = text(8, 3, seed=1)
    logits, behind = network(fewer, state)
    torch.testing.assert_close(logits, network(fewer)[0])
    assert {each.shape[1] for each in behind} == {3}
    with pytest.raises((RuntimeError, ValueError)):
        cast(CharRNN, network).step(fewer, state)


def test_loss_is_the_mean_over_time_and_streams() -> None:
    logits, targets = torch.randn(6, 4, VOCABULARY), text(6, 4)
    each = [
        nn.functional.cross_entropy(logits[time, stream], targets[time, stream])
        for time in range(6)
        for stream in range(4)
    ]
    torch.testing.assert_close(sequence_loss(logits, targets), torch.stack(each).mean())
    # Three axes as they are: an error, or, where the sizes agree, another number.
    with pytest.raises((RuntimeError, ValueError)):
        nn.functional.cross_entropy(logits, targets)
    square = torch.randn(6, VOCABULARY, VOCABULARY)
    targets = text(6, VOCABULARY)
    wrong = nn.functional.cross_entropy(square, targets)
    assert (wrong - sequence_loss(square, targets)).abs() > 1e-3


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("char-rnncell", {"layers": 2}, "one layer"),
        ("char-rnncell", {"dropout": 1}, "dropout is between"),
        ("char3", {"layers": 3}, "one layer"),
        ("char-loop", {"dropout": 1}, "dropout is between"),
        ("char-gru", {"dropout": 1}, "dropout is between"),
        ("char3", {"output_dropout": 1}, "char3 has no output_dropout"),
        ("char-loop", {"output_dropout": 1}, "char-loop has no output_dropout"),
        ("char-transformer", {}, "there are: char3, char-loop"),
    ],
)
def test_options_that_a_network_lacks_are_rejected(
    name: str, options: dict[str, int], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        build(name, **options)
