"""Training runs of character language models: learning, resuming, cycles, report."""

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.atomic_files import UnwritableError
from pipeline.errors import DataError, RunError
from pipeline.runs.run_folder import CHECKPOINT, EPOCHS, STATE
from pipeline.runs.tensor_files import read_tensors
from pipeline.text import run as runs
from pipeline.text.corpus import Corpus, entropy, read_corpus
from pipeline.text.recipe import TextRecipe
from pipeline.text.report import write_text_report
from pipeline.text.run import TextRun, begin, cycle_file, read_run, resume
from pipeline.text.trainer import TextRecord, TextTrainer
from tests.pipeline.cli.running import limelight
from tests.pipeline.text.small_texts import small_recipe, write_verses

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return read_corpus(str(write_verses(tmp_path_factory.mktemp("text"))))


@pytest.fixture(scope="module")
def short_corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return read_corpus(str(write_verses(tmp_path_factory.mktemp("text"), words=1000)))


def train(corpus: Corpus, folder: Path, name: str = "char-gru", **changes: object) -> TextRun:
    recipe = small_recipe(name, **changes)
    return begin(corpus, folder, recipe_name=name, recipe=recipe, device="cpu")


@pytest.mark.parametrize("name", TextRecipe.names())
def test_every_network_learns_more_than_the_frequencies(
    name: str, corpus: Corpus, tmp_path: Path
) -> None:
    run = train(corpus, tmp_path / "run", name, epochs=3)
    assert len(run.epochs) == 3
    assert run.best.validation_loss < 0.8 * entropy(corpus.validation)
    losses = [epoch.validation_loss for epoch in run.epochs]
    assert losses[-1] < losses[0]
    assert run.best.validation_loss == min(losses)


def test_state_that_goes_on_is_worth_more_than_one_from_zeros(
    short_corpus: Corpus, tmp_path: Path
) -> None:
    kept = train(short_corpus, tmp_path / "kept", "char-stateful", epochs=2, bptt=2)
    lost = train(short_corpus, tmp_path / "lost", "char-rnn", epochs=2, bptt=2)
    assert kept.best.validation_loss < lost.best.validation_loss - 0.05


def test_validation_does_not_depend_on_the_length_of_its_batches(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = TextTrainer(small_recipe("char-gru"), corpus, device=CPU, seed=0)
    list(trainer.run_epoch())
    whole = trainer.validate()
    monkeypatch.setattr("pipeline.text.trainer._VALIDATED_AT_ONCE", 7)
    # The last of these batches is shorter, and counts for less.
    assert trainer.validate() == pytest.approx(whole, rel=2e-3)


class StoppedError(Exception):
    pass


class _StopAfter:
    def __init__(self, epoch: int, step: int = 0) -> None:
        self._epoch, self._step = epoch, step

    def end_batch(self, trainer: TextTrainer, batch: object) -> None:
        if self._step and trainer.step == self._step:
            raise StoppedError

    def end_epoch(self, trainer: TextTrainer, record: TextRecord) -> None:
        if trainer.epoch == self._epoch:
            raise StoppedError


def test_average_of_few_steps_is_the_mean_of_their_weights(short_corpus: Corpus) -> None:
    recipe = small_recipe("char-lstm", jitter=False, ema_decay=0.99)
    trainer = TextTrainer(recipe, short_corpus, device=CPU, seed=0)
    seen = []
    for _ in itertools.islice(trainer.run_epoch(), 5):
        seen.append({name: value.clone() for name, value in trainer.network.state_dict().items()})
    for name, value in trainer.weights().items():
        torch.testing.assert_close(value, torch.stack([each[name] for each in seen]).mean(0))


@pytest.mark.parametrize(
    ("name", "step", "ema_decay"),
    [("char-lstm", 0, 0.9), ("char-lstm", 200, 0.0), ("char-loop", 0, 0.0)],
)
def test_interrupted_run_reaches_the_same_weights(
    name: str, step: int, ema_decay: float, short_corpus: Corpus, tmp_path: Path
) -> None:
    corpus, recipe = short_corpus, small_recipe(name, epochs=3, jitter=True, ema_decay=ema_decay)
    whole = begin(corpus, tmp_path / "whole", recipe_name=name, recipe=recipe, device="cpu")
    # At the end of the first epoch, or within the third.
    with pytest.raises(StoppedError):
        begin(
            corpus, tmp_path / "part", recipe_name=name, recipe=recipe, device="cpu",
            observers=[_StopAfter(99 if step else 1, step)],
        )  # fmt: skip
    state, _ = read_tensors(tmp_path / "part" / STATE)
    assert state["trainer.progress"][0] == (2 if step else 1)
    resumed = resume(tmp_path / "part", device="cpu")
    for key, value in whole.network.state_dict().items():
        assert torch.equal(resumed.network.state_dict()[key], value), key
    assert [replace(each, seconds=0) for each in resumed.epochs] == [
        replace(each, seconds=0) for each in whole.epochs
    ]
    assert not (tmp_path / "part" / STATE).exists()
    history, _ = read_tensors(tmp_path / "part" / "history.safetensors")
    expected, _ = read_tensors(tmp_path / "whole" / "history.safetensors")
    assert torch.equal(history["loss"], expected["loss"])


def test_weights_are_kept_at_the_end_of_each_cycle(short_corpus: Corpus, tmp_path: Path) -> None:
    schedule = {"kind": "sgdr", "peak": 1e-2, "cycle_len": 1, "cycle_mult": 2}
    # Jitter would give the epochs different numbers of steps.
    run = train(short_corpus, tmp_path / "run", epochs=4, schedule=schedule, jitter=False)
    # 1 + 2 epochs, and a cycle of four that is cut after the first.
    assert [epoch for epoch, _ in run.cycles()] == [1, 3, 4]
    steps, _ = read_tensors(tmp_path / "run" / "history.safetensors")
    rates = steps["learning_rate"]
    count = len(rates) // 4
    assert rates[0] == rates[count] == rates[3 * count] == pytest.approx(1e-2)
    assert rates[count - 1] < 5e-4
    assert rates[2 * count] == pytest.approx(5e-3, rel=0.05)
    weights, notes = read_tensors(cycle_file(run.folder, 3))
    assert notes == {"epoch": "4"}
    best, _ = read_tensors(run.folder / CHECKPOINT)
    last = run.best.epoch == 4
    assert all(torch.equal(weights[key], best[key]) for key in best) == last


def test_cycle_that_cannot_be_written_says_how_to_continue(
    short_corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(file: Path, *_: object) -> None:
        raise UnwritableError(file, OSError("no space left"))

    monkeypatch.setattr(runs, "write_tensors", fail)
    words = rf"cycle-1.*no space left; .* continue the run with --resume {tmp_path / 'run'}"
    with pytest.raises(UnwritableError, match=words):
        train(short_corpus, tmp_path / "run", epochs=1, schedule={"kind": "sgdr", "peak": 1e-2})


def test_clip_limits_the_gradient(corpus: Corpus, tmp_path: Path) -> None:
    clipped = train(corpus, tmp_path / "clipped", epochs=1, clip=1e-12)
    free = train(corpus, tmp_path / "free", epochs=1)
    # Adam's epsilon is larger than such a gradient.
    assert clipped.best.validation_loss > free.best.validation_loss + 0.3


def test_loss_that_is_no_number_stops_the_run(corpus: Corpus, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"the loss is nan at step .*choose a lower --lr"):
        train(corpus, tmp_path / "run", epochs=3, schedule={"kind": "constant", "peak": 1e38})


def test_text_that_changed_is_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_verses(tmp_path)
    corpus = read_corpus(str(file))
    recipe = small_recipe("char-gru", epochs=2)
    with pytest.raises(StoppedError):
        begin(
            corpus, tmp_path / "run", recipe_name="char-gru", recipe=recipe, device="cpu",
            observers=[_StopAfter(1)],
        )  # fmt: skip
    moved = file.rename(tmp_path / "moved.txt")
    file.write_text(moved.read_text() + "more")
    with pytest.raises(RunError, match="has changed since this run began"):
        resume(tmp_path / "run", device="cpu")
    file.unlink()
    with pytest.raises(RunError, match=r"verses.txt, the text of this run, .*pass --data PATH"):
        resume(tmp_path / "run", device="cpu")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=f"{tmp_path}/nietzsche"):  # a path is never the name
        resume(tmp_path / "run", data=Path("./nietzsche"), device="cpu")
    moved_run = resume(tmp_path / "run", data=moved, device="cpu")
    assert len(moved_run.epochs) == 2
    assert read_run(tmp_path / "run").config.source == str(moved)
    with pytest.raises(RunError, match="is finished; next: limelight text sample"):
        resume(tmp_path / "run", device="cpu")


def test_report_leaves_out_a_cycle_whose_last_epoch_was_not_recorded(
    short_corpus: Corpus, tmp_path: Path
) -> None:
    run = train(short_corpus, tmp_path / "run", epochs=2)
    lines = (run.folder / EPOCHS).read_text().splitlines(keepends=True)
    (run.folder / EPOCHS).write_text(lines[0])
    page = write_text_report(read_run(run.folder)).read_text()
    assert "Cycle 1, epoch 2" not in page


@pytest.mark.parametrize("part", ["training", "validation"])
def test_text_that_is_shorter_than_a_window_is_rejected_before_the_training(
    part: str, short_corpus: Corpus, tmp_path: Path
) -> None:
    short = replace(short_corpus, **{part: getattr(short_corpus, part)[:8]})
    recipe = small_recipe("char-loop")
    with pytest.raises(DataError, match="8 characters are too few for windows of 8: use a longer"):
        begin(short, tmp_path / "run", recipe_name="char-loop", recipe=recipe, device="cpu")
    assert not (tmp_path / "run").exists()


def test_command_trains_and_writes_a_report(tmp_path: Path) -> None:
    write_verses(tmp_path)
    done = limelight(
        "text", "train", "char-gru", "verses.txt", "--epochs", "2", "--out", "run", "--device",
        "cpu", "--set", "network.hidden=32", "--set", "schedule.kind=sgdr",
        "--set", "schedule.cycle_len=1", "--lr", "0.01",
        cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == "run\n"
    run = read_run(tmp_path / "run")
    assert run.config.recipe.network.hidden == 32
    assert run.config.recipe.schedule.peak == 0.01
    assert f"validation loss {run.best.validation_loss:.4f}" in done.stderr
    page = (tmp_path / "run" / "report.html").read_text()
    assert page.count("<svg") == 3
    assert [f"Cycle {each}, epoch {each}" in page for each in (1, 2, 3)] == [True, True, False]
    assert page.count("<pre>for thos") == 4
    assert "http" not in page.replace("http://www.w3.org", "")
    again = limelight("text", "report", "run", cwd=tmp_path)
    assert again.stdout == "run/report.html\n"
    assert (tmp_path / "run" / "report.html").read_text() == page
    lines = (tmp_path / "run" / EPOCHS).read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2]


def test_interrupted_command_says_how_to_continue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_verses(tmp_path, words=300)

    def interrupt(trainer: TextTrainer) -> tuple[float, float]:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(TextTrainer, "validate", interrupt)
        stopped = limelight(
            "text", "train", "char-gru", "verses.txt", "--out", "my run", "--epochs", "1",
            "--no-report", cwd=tmp_path,
        )  # fmt: skip
    assert stopped.returncode == 130
    assert "to continue: limelight text train --resume 'my run'\n" in stopped.stderr
    resumed = limelight("text", "train", "--resume", "my run", "--no-report", cwd=tmp_path)
    assert resumed.stdout == "my run\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("train",), "name a network and a text, or a run to --resume"),
        (("train", "char-transformer", "verses.txt"), "no recipe 'char-transformer'; there are:"),
        (("train", "char-gru", "nothing.txt"), "neither a text file nor one of nietzsche"),
        (("train", "char-gru", "verses.txt", "--set", "bptt=0"), "bptt: Input should be greater"),
        (("train", "char-gru", "verses.txt", "--set", "network.dropout=0.5"), "network: dropout"),
        (("train", "char-gru", "verses.txt", "--out", "full"), "full is not empty; choose"),
        (("train", "char-gru", "verses.txt", "--epochs", "0"), "epochs: Input should be greater"),
        (("train", "char-gru", "verses.txt", "--lr", "-1"), "Input should be greater than 0"),
        (("train", "char-gru", "verses.txt", "--data", "x"), "--data is for --resume"),
        (("train", "--resume", "full"), "full is not a run: config.json is missing"),
        (("train", "--resume", "full", "--epochs", "3"), "began with: leave out --epochs"),
        (("train", "char-gru", "--resume", "full"), "began with: leave out NETWORK"),
        (("report", "full"), "full is not a run"),
    ],
)
def test_command_says_what_is_wrong(arguments: tuple[str, ...], words: str, tmp_path: Path) -> None:
    write_verses(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "precious").touch()
    done = limelight("text", *arguments, cwd=tmp_path)
    assert done.returncode == 1
    assert words in done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith(("error: ", "Error"))


def test_run_of_images_is_no_run_of_text(digits8_run: Any) -> None:
    with pytest.raises(RunError, match="is not a run of `limelight text train`"):
        runs.read_run(digits8_run.folder)
