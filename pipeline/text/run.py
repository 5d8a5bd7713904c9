"""Run of a character language model: its folder, beginning, continuing and reading it.

The files are those of `pipeline.runs.run_folder`, and `cycle-N.safetensors` with the weights at the
end of each cycle of the schedule.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Literal, Protocol

import torch
from pydantic import BaseModel, ConfigDict, ValidationError

from models.text.network import TextNetwork
from models.text.registry import build_text_network
from pipeline.atomic_files import write_text
from pipeline.data.registry import source_at
from pipeline.data.text_files import TEXTS
from pipeline.errors import RunError
from pipeline.runs.run_claim import check_new
from pipeline.runs.run_folder import CHECKPOINT, CONFIG, STATE, is_finished, read_epochs
from pipeline.runs.run_writer import RunWriter, saying_how_to_resume
from pipeline.runs.tensor_files import read_tensors, write_tensors
from pipeline.text.corpus import Corpus, Vocabulary, read_corpus
from pipeline.text.recipe import TextRecipe
from pipeline.text.trainer import (
    EpochObserver,
    StepObserver,
    TextRecord,
    TextTrainer,
    train_text,
)
from pipeline.training.device import choose_device, uses_bfloat16
from pipeline.training.record import Epoch
from pipeline.training.step_history import History
from pipeline.training.weights import Weights


class TextRunConfig(BaseModel):
    """Everything needed to repeat a run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["text"] = "text"
    created: str
    source: str
    """Name of a published text, or the absolute path of a file."""
    data_sha256: str
    vocabulary: str
    recipe_name: str
    recipe: TextRecipe
    seed: int
    device: str
    bfloat16: bool
    threads: int
    libraries: dict[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class TextRun:
    """A run whose first epoch has ended, with its best network, in evaluation mode."""

    folder: Path
    config: TextRunConfig
    network: TextNetwork
    epochs: tuple[Epoch, ...]

    @property
    def vocabulary(self) -> Vocabulary:
        """The characters that it knows."""
        return Vocabulary(self.config.vocabulary)

    @property
    def best(self) -> Epoch:
        """Epoch whose weights are kept."""
        return TextRecord(epochs=list(self.epochs)).best

    def cycles(self) -> list[tuple[int, TextNetwork]]:
        """Return the epoch and the network at the end of each cycle that has ended."""
        found = []
        ends = self.config.recipe.schedule.cycle_ends(self.config.recipe.epochs)
        for number, epoch in enumerate(ends, start=1):
            file = cycle_file(self.folder, number)
            if file.is_file():
                found.append((epoch, _network(self.config, read_tensors(file)[0])))
        return found


class CycleWriter:
    """Callback that keeps the weights at the end of each cycle, as the lesson does."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @saying_how_to_resume()
    def end_epoch(self, trainer: TextTrainer, record: TextRecord) -> None:
        """Write the weights if a cycle ends."""
        if trainer.epoch in trainer.cycle_ends:
            number = trainer.cycle_ends.index(trainer.epoch) + 1
            write_tensors(
                cycle_file(self._folder, number), trainer.weights(), {"epoch": str(trainer.epoch)}
            )


class Observer(StepObserver, EpochObserver, Protocol):
    """Observer of steps and epochs, such as a bar."""


def begin(
    corpus: Corpus,
    folder: Path,
    *,
    recipe_name: str,
    recipe: TextRecipe,
    seed: int = 0,
    device: str = "auto",
    observers: Sequence[Observer] = (),
) -> TextRun:
    """Train a network on a text, in a new folder.

    Raises:
        RunError: `folder` is not empty, or the options contradict each other.
        UnwritableError: the run cannot be written, as on a full disk.
        DataError: the text is too short.

    """
    chosen = choose_device(device)
    config = TextRunConfig(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        source=corpus.source,
        data_sha256=corpus.sha256,
        vocabulary=corpus.vocabulary.characters,
        recipe_name=recipe_name,
        recipe=recipe,
        seed=seed,
        device=torch.cuda.get_device_name() if chosen.type == "cuda" else "cpu",
        bfloat16=uses_bfloat16(chosen),
        threads=torch.get_num_threads(),
        libraries={"torch": version("torch")},
    )
    trainer = TextTrainer(recipe, corpus, device=chosen, seed=seed)
    check_new(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / CONFIG, config.model_dump_json(indent=2) + "\n")
    return _train(trainer, folder, observers)


def resume(
    folder: Path,
    *,
    data: Path | None = None,
    device: str = "auto",
    observers: Sequence[Observer] = (),
) -> TextRun:
    """Continue an interrupted run; `data` is where its text is now, if it moved.

    Raises:
        RunError: `folder` is no run or is finished, or its text has changed.
        DataError: the text cannot be read.

    """
    config = read_config(folder)
    if is_finished(folder):
        raise RunError(f"{folder} is finished; next: limelight text sample {folder}")
    if data is None and config.source not in TEXTS and not Path(config.source).is_file():
        raise RunError(f"{config.source}, the text of this run, is not there; pass --data PATH")
    corpus = read_corpus(
        source_at(data) if data else config.source,
        validation=config.recipe.validation,
        vocabulary=Vocabulary(config.vocabulary),
    )
    if corpus.sha256 != config.data_sha256:
        raise RunError(f"{corpus.source} has changed since this run began; train again")
    if data is not None:
        config = config.model_copy(update={"source": corpus.source})
        write_text(folder / CONFIG, config.model_dump_json(indent=2) + "\n")
    # The rounding of sums depends on the number of threads.
    torch.set_num_threads(config.threads)
    trainer = TextTrainer(config.recipe, corpus, device=choose_device(device), seed=config.seed)
    return _train(trainer, folder, observers)


def _train(trainer: TextTrainer, folder: Path, observers: Sequence[Observer]) -> TextRun:
    history = History()
    writer = RunWriter(folder, {"": history})
    record = TextRecord()
    if (folder / STATE).is_file():
        resumed = writer.resume(trainer, TextRecord)
        assert isinstance(resumed, TextRecord)  # noqa: S101  # for the type checker
        record = resumed
    # The state comes last: after an interruption between the files, the epoch is trained again.
    train_text(
        trainer,
        record,
        steps=[history, *observers],
        epochs=[CycleWriter(folder), writer, *observers],
    )
    writer.finish(record)
    return read_run(folder)


def read_run(folder: Path) -> TextRun:
    """Read a run.

    Raises:
        RunError: `folder` is no run, or no epoch has ended.

    """
    config = read_config(folder)
    epochs = read_epochs(folder)
    if not epochs or not (folder / CHECKPOINT).is_file():
        raise RunError(f"{folder}: no epoch was finished; train again")
    weights, _ = read_tensors(folder / CHECKPOINT)
    return TextRun(
        folder=folder, config=config, network=_network(config, weights), epochs=tuple(epochs)
    )


def read_config(folder: Path) -> TextRunConfig:
    """Read the configuration of a run.

    Raises:
        RunError: `folder` is no run of a character language model.

    """
    if not (folder / CONFIG).is_file():
        raise RunError(f"{folder} is not a run: {CONFIG} is missing")
    try:
        return TextRunConfig.model_validate_json((folder / CONFIG).read_text(encoding="utf-8"))
    except (ValidationError, OSError, UnicodeDecodeError) as error:
        raise RunError(
            f"{folder} is not a run of `limelight text train`; name a folder that it wrote"
        ) from error


def cycle_file(folder: Path, number: int) -> Path:
    """Path of the weights at the end of a cycle, which are numbered from 1."""
    return folder / f"cycle-{number}.safetensors"


def _network(config: TextRunConfig, weights: Weights) -> TextNetwork:
    network = build_text_network(config.recipe.network, vocabulary=len(config.vocabulary))
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise RunError(f"the weights are not the network's ({error}); train again") from error
    return network.eval()
