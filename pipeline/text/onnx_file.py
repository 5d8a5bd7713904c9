"""A character language model as one ONNX file, with its state as input and output.

A network that keeps its state takes one character of each of N texts, (1, N), and the state before
it: `hidden` and, for an LSTM, `cell`, (layers, N, hidden) each. It returns `logits` (1, N, V) and
the state behind it, `hidden_out` and `cell_out`. Any other network takes a window of characters,
(window, N), and has no state. The vocabulary is in the metadata.
"""

import json
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.text.network import TextNetwork
from models.text.recurrent import CharRNN
from pipeline.atomic_files import new_file
from pipeline.errors import GateError, PipelineError
from pipeline.exporting.parity import EXACT
from pipeline.exporting.serialization import OPSET, without_metadata
from pipeline.text.corpus import Vocabulary
from pipeline.text.run import TextRun
from pipeline.text.sampling import Logits, TorchStepper, window_of

_SEQUENCE, _STREAMS = 64, 3

Arrays = dict[str, NDArray[np.float32]]


class _Step(nn.Module):
    """A network's step, with the state as single tensors."""

    def __init__(self, network: CharRNN) -> None:
        super().__init__()
        self.network = network

    def forward(self, characters: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        logits, behind = self.network.step(characters, state)
        return logits, *behind


class _Window(nn.Module):
    """A network over a window, with the last prediction only."""

    def __init__(self, network: TextNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, characters: Tensor) -> Tensor:
        logits, _ = self.network(characters)
        last: Tensor = logits[-1:]
        return last


def export_text(run: TextRun, file: Path) -> float:
    """Write a run's network; return the largest difference from torch over a sequence.

    Raises:
        GateError: the file does not give the probabilities of torch.
        UnwritableError: the file cannot be written.

    """
    network = run.network
    window = window_of(network, run.config.recipe.bptt)
    with new_file(file, "make room, or choose another --to") as part:
        _save(network, window, part)
        _add_metadata(part, run, window)
        error = parity(part, network, seed=run.config.seed)
        if not error <= EXACT.probability:
            raise GateError(
                f"{file.name}: probabilities differ from torch by {error:.2e} over "
                f"{_SEQUENCE} characters, at most {EXACT.probability:.0e} is allowed"
            )
    return error


def _save(network: TextNetwork, window: int | None, file: Path) -> None:
    # A batch of 1 would become a constant of the graph.
    characters = torch.zeros(window or 1, 2, dtype=torch.int64)
    streams = torch.export.Dim("N")
    state = () if window else network.initial_state(2)
    names = () if window else network.state_names
    graph = _Window(network) if window or not isinstance(network, CharRNN) else _Step(network)
    shapes = tuple({1: streams} for _ in state)
    with warnings.catch_warnings():
        # `nn.RNN` and its like keep a list of their weights besides the parameters.
        warnings.filterwarnings("ignore", message="The tensor attributes .* were assigned")
        traced = torch.export.export(
            graph,
            (characters, *state),
            dynamic_shapes=({1: streams}, shapes) if state else ({1: streams},),
        )
    program = torch.onnx.export(
        traced,
        dynamo=True,
        input_names=["characters", *names],
        output_names=["logits", *(f"{name}_out" for name in names)],
        opset_version=OPSET,
        verbose=False,
    )
    if program is None:
        raise GateError(f"{file.name}: torch.onnx.export returned no program")
    program.save(file, external_data=False)


def _add_metadata(file: Path, run: TextRun, window: int | None) -> None:
    model = without_metadata(onnx.load(file))
    entries = {
        "kind": "limelight-text",
        "architecture": run.config.recipe.network.architecture,
        "vocabulary": run.config.vocabulary,
        "window": window,
    }
    for name, value in entries.items():
        model.metadata_props.add(key=name, value=json.dumps(value, ensure_ascii=False))
    onnx.save(model, file)
    onnx.checker.check_model(onnx.load(file), full_check=True)


def parity(file: Path, network: TextNetwork, *, seed: int = 0) -> float:
    """Return the largest difference between a file's probabilities and torch's, over a sequence.

    The sequence is what the network itself writes: nobody asks it about random characters, on
    which torch in float32 is further from float64. The state goes through the file step by step,
    and through torch in one piece.
    """
    opened = OnnxText(file)
    window = opened.window
    texts = [_own_text(network, window, seed + stream) for stream in range(_STREAMS)]
    characters = torch.tensor(texts).t().contiguous()
    with torch.inference_mode():
        if window is None:
            expected = network.eval()(characters)[0]
            steps = [opened.step(each[None].numpy()) for each in characters]
        else:
            parts = [characters[at : at + window] for at in range(len(characters) - window)]
            expected = torch.cat([network.eval()(part)[0][-1:] for part in parts])
            steps = [opened.step(part.numpy()) for part in parts]
        found = torch.from_numpy(np.concatenate(steps))
        return float((found.softmax(2) - expected.softmax(2)).abs().max())


def _own_text(network: TextNetwork, window: int | None, seed: int) -> list[int]:
    """Return the codes of a text that the network writes, after the unknown character."""
    stepper, rng = TorchStepper(network, window), np.random.default_rng(seed)
    codes = [0] * (window or 1)
    while len(codes) < _SEQUENCE + (window or 0):
        logits = stepper.read(codes[-1:] if len(codes) > (window or 1) else codes)
        shares = np.exp(logits.astype(np.float64) - logits.max())
        codes.append(int(rng.choice(len(shares), p=shares / shares.sum())))
    return codes


class OnnxText:
    """File of `export_text` in ONNX Runtime, as a `Stepper`.

    Raises:
        PipelineError: the file is no such file.

    """

    def __init__(self, file: Path) -> None:
        try:
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = 1
            self._session = onnxruntime.InferenceSession(
                file, options, providers=["CPUExecutionProvider"]
            )
            notes = self._session.get_modelmeta().custom_metadata_map
            self.vocabulary = Vocabulary(json.loads(notes["vocabulary"]))
            self.window: int | None = json.loads(notes["window"])
        except Exception as error:  # ONNX Runtime has an exception for each kind of damage
            raise PipelineError(
                f"{file} is not a file of `limelight text export` ({error}); export a run"
            ) from error
        self._shapes = {
            each.name: each.shape
            for each in self._session.get_inputs()
            if each.name != "characters"
        }
        self._state: Arrays = {}
        self._seen: list[int] = []

    def step(self, characters_tn: NDArray[np.int64]) -> Logits:
        """Take one step of N texts: (1, N) or (window, N) -> logits (1, N, V)."""
        streams = characters_tn.shape[1]
        state = self._state or {
            name: np.zeros((layers, streams, hidden), np.float32)
            for name, (layers, _, hidden) in self._shapes.items()
        }
        logits, *behind = self._session.run(None, {"characters": characters_tn, **state})
        self._state = dict(zip(self._shapes, behind, strict=True))
        found: Logits = logits
        return found

    def read(self, codes: list[int]) -> Logits:
        """Read more characters of one text; return the logits (V,) of the one after them."""
        if self.window is None:
            steps = [self.step(np.array([[code]], np.int64)) for code in codes]
        else:
            self._seen = [*self._seen, *codes][-self.window :]
            steps = [self.step(np.array(self._seen, np.int64)[:, None])]
        last: Logits = steps[-1][-1, 0]
        return last
