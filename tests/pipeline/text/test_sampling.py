"""Sampling, and the ONNX file with the state as input and output."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from models.text.network import TextNetwork
from models.text.options import ARCHITECTURES, TextOptions
from models.text.registry import build_text_network
from pipeline.errors import GateError, PipelineError
from pipeline.text import onnx_file
from pipeline.text.corpus import Vocabulary, read_corpus
from pipeline.text.onnx_file import OnnxText, export_text, parity
from pipeline.text.recipe import TextRecipe
from pipeline.text.run import TextRun, TextRunConfig, begin
from pipeline.text.sampling import Logits, sample, written
from pipeline.training.record import Epoch
from tests.pipeline.cli.running import limelight
from tests.pipeline.text.small_texts import WORDS, small_recipe, write_verses

VOCABULARY = "\ufffd abcdefgh"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> TextRun:
    """A GRU that has learned the words of the small text."""
    folder = tmp_path_factory.mktemp("runs")
    corpus = read_corpus(str(write_verses(folder)))
    recipe = small_recipe("char-gru", epochs=3)
    return begin(corpus, folder / "run", recipe_name="char-gru", recipe=recipe, device="cpu")


def untrained(name: str, folder: Path) -> TextRun:
    torch.manual_seed(0)
    options = TextOptions(
        architecture=name, embedding=5, hidden=16, layers=2 if name == "char-lstm" else 1
    )
    recipe = TextRecipe.load(name).but(network=options)
    epoch = Epoch(
        epoch=1, train_loss=1, validation_loss=1, validation_accuracy=0, learning_rate=1, seconds=1
    )
    config = TextRunConfig(
        created="", source="", data_sha256="", vocabulary=VOCABULARY, recipe_name=name,
        recipe=recipe, seed=0, device="cpu", bfloat16=False, threads=1, libraries={},
    )  # fmt: skip
    network = build_text_network(options, vocabulary=len(VOCABULARY))
    return TextRun(folder=folder, config=config, network=network, epochs=(epoch,))


def test_trained_network_writes_words_of_its_text(run: TextRun) -> None:
    text = sample(run.network, run.vocabulary, "the truth", 400, bptt=8)
    assert len(text) == len("the truth") + 400
    words = text.replace(".", " ").split()[:-1]
    assert sum(word in WORDS for word in words) > 0.6 * len(words)


def test_samples_depend_on_the_seed_alone(run: TextRun) -> None:
    first, again, other = (
        sample(run.network, run.vocabulary, "the ", 80, bptt=8, seed=seed) for seed in (1, 1, 2)
    )
    assert first == again
    assert first != other


def test_greedy_sample_repeats_itself_and_a_drawn_one_does_not(run: TextRun) -> None:
    def longest_repeat(text: str) -> int:
        tail = text[-60:]
        return text.count(tail[-30:])

    greedy = sample(run.network, run.vocabulary, "the ", 600, bptt=8, greedy=True)
    drawn = sample(run.network, run.vocabulary, "the ", 600, bptt=8)
    assert longest_repeat(greedy) > 3
    assert longest_repeat(drawn) == 1
    cold = sample(run.network, run.vocabulary, "the ", 600, bptt=8, temperature=0.001)
    assert cold == greedy


class Fixed:
    """Predicts the same distribution after every character."""

    def __init__(self, shares: list[float]) -> None:
        self._logits = np.log(np.array(shares, np.float32))

    def read(self, codes: list[int]) -> Logits:
        return self._logits


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_characters_are_drawn_by_the_tempered_distribution(temperature: float) -> None:
    shares = [0.5, 0.1, 0.4]  # the first is unknown, and never written
    text = "".join(
        written(
            Fixed(shares), Vocabulary("\ufffdab"), "a", 4000, window=None, temperature=temperature
        )
    )
    expected = 0.4 ** (1 / temperature) / (0.4 ** (1 / temperature) + 0.1 ** (1 / temperature))
    assert set(text) == {"a", "b"}
    assert text.count("b") / 4000 == pytest.approx(expected, abs=0.03)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_state_or_window_of_a_sample_is_that_of_the_whole_text(name: str, tmp_path: Path) -> None:
    run = untrained(name, tmp_path)
    prompt, network = "abc abd gh", run.network.eval()
    text = sample(network, run.vocabulary, prompt, 12, bptt=8, greedy=True)
    codes = torch.from_numpy(run.vocabulary.encode(text))
    for at in range(len(prompt), len(text)):
        seen = codes[:at] if network.keeps_state else codes[:at][-(network.window or 8) :]
        with torch.inference_mode():
            logits = network(seen[:, None])[0][-1, 0, 1:]
        assert int(logits.argmax()) + 1 == int(codes[at])


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_onnx_file_gives_the_probabilities_of_torch_over_a_sequence(
    name: str, tmp_path: Path
) -> None:
    run = untrained(name, tmp_path)
    file = tmp_path / "model.onnx"
    assert export_text(run, file) < 1e-6
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    states = list(run.network.state_names) if run.network.keeps_state else []
    assert [each.name for each in session.get_inputs()] == ["characters", *states]
    assert [each.name for each in session.get_outputs()] == [
        "logits", *(f"{state}_out" for state in states),
    ]  # fmt: skip
    # Without the state, the rest of a text is predicted differently: the comparison needs it.
    if states:
        opened = OnnxText(file)
        codes = np.array([[3], [4], [5]], np.int64)
        kept = [opened.step(code[None]) for code in codes]
        assert not np.allclose(kept[-1], OnnxText(file).step(codes[-1][None]))


def test_export_of_another_network_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, other = untrained("char-gru", tmp_path), untrained("char-gru", tmp_path)

    def wrong(file: Path, network: TextNetwork, *, seed: int) -> float:
        with torch.no_grad():
            other.network.get_parameter("out.bias")[1] += 0.01
        return parity(file, other.network, seed=seed)

    monkeypatch.setattr(onnx_file, "parity", wrong)
    with pytest.raises(GateError, match=r"probabilities differ from torch by \S+ over 64"):
        export_text(run, tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


def test_onnx_file_writes_what_the_run_writes(run: TextRun, tmp_path: Path) -> None:
    folder = str(run.folder)
    exported = limelight("text", "export", folder, "--to", "gru.onnx", cwd=tmp_path)
    assert exported.returncode == 0, exported.stderr
    assert exported.stdout == "gru.onnx\n"
    notes = {each.key: each.value for each in onnx.load(tmp_path / "gru.onnx").metadata_props}
    assert json.loads(notes["vocabulary"]) == run.config.vocabulary
    options = ("--prompt", "The Truth", "--length", "120", "--seed", "3", "--temperature", "0.7")
    by_torch = limelight("text", "sample", folder, *options, cwd=tmp_path)
    by_onnx = limelight("text", "sample", "gru.onnx", *options, cwd=tmp_path)
    assert by_torch.returncode == 0, by_torch.stderr
    assert by_torch.stdout.startswith("The Truth")
    assert len(by_torch.stdout) == len("The Truth") + 120 + 1
    assert by_onnx.stdout == by_torch.stdout


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--temperature", "0"), "--temperature 0.0: a positive number is needed"),
        (("--prompt", ""), "the prompt is empty"),
    ],
)
def test_sample_that_cannot_be_drawn_is_rejected(
    options: tuple[str, ...], words: str, run: TextRun, tmp_path: Path
) -> None:
    done = limelight("text", "sample", str(run.folder), *options, cwd=tmp_path)
    assert done.returncode == 1
    assert words in done.stderr


def test_other_files_are_no_models(tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_bytes(b"nothing")
    with pytest.raises(PipelineError, match="is not a file of `limelight text export`"):
        OnnxText(tmp_path / "x.onnx")
    done = limelight("text", "sample", "y", cwd=tmp_path)
    assert "y is not there; name a run folder or an ONNX file" in done.stderr


def test_window_may_be_longer_than_the_sequence_of_the_comparison(tmp_path: Path) -> None:
    run = untrained("char-rnn", tmp_path)
    recipe = run.config.recipe.but(bptt=70)
    run = replace(run, config=run.config.model_copy(update={"recipe": recipe}))
    assert export_text(run, tmp_path / "model.onnx") < 1e-6


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.inf, math.nan])
def test_temperature_is_positive_and_finite(temperature: float) -> None:
    characters = written(
        Fixed([0.2, 0.8]), Vocabulary("\ufffda"), "a", 1, window=None, temperature=temperature
    )
    with pytest.raises(PipelineError, match="a positive number is needed"):
        next(characters)
