"""A run folder: `config.json`, `epochs.jsonl`, `checkpoint.safetensors`, `history.safetensors`.

While a training goes on there is `state.safetensors` as well, from which it can be resumed. The
other files but the first are written from it, so that they agree whatever was interrupted.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import onnxruntime
import torch
from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from models import ClassMapNetwork
from pipeline.callbacks import Callback, Epoch
from pipeline.checkpoint import read_tensors, write_tensors, write_text
from pipeline.datasets import DATASETS, Dataset, Split, load_dataset, split_validation
from pipeline.device import uses_bfloat16
from pipeline.distillation import Teacher, Teachers
from pipeline.distributed import World
from pipeline.errors import RunError
from pipeline.history import History
from pipeline.normalisation import Normalisation
from pipeline.recipe import Recipe
from pipeline.run_writer import CHECKPOINT, CONFIG, EPOCHS, INITIAL, STATE, TEACHERS, RunWriter
from pipeline.training import Record, Trainer, train
from pipeline.weights import Weights, load_network
from service.manifest import ImageRule

RECORDED = (
    "seed", "device", "bfloat16", "threads", "processes", "normalisation", "origin", "teachers",
)  # fmt: skip
"""What a manifest says of a run beside its recipe."""
LIBRARIES = ("torch", "torchvision", "onnx", "onnxscript", "numpy", "pillow")


class RunConfig(BaseModel):
    """Everything needed to repeat a run, and to export what came of it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    created: str
    source: str
    """Name of the data set, or the path of the labelled images."""
    image_size: int | tuple[int, int]
    image: ImageRule
    data_sha256: str
    classes: tuple[str, ...]
    recipe_name: str
    recipe: Recipe
    seed: int
    device: str
    bfloat16: bool
    threads: int
    processes: int = 1
    normalisation: Normalisation
    origin: str | None = None
    """The model that the first weights are from."""
    teachers: tuple[Teacher, ...] = ()
    """The models whose answers are learnt instead of the labels."""
    libraries: dict[str, str]

    def load_data(self) -> Dataset:
        """The run's data set.

        Raises:
            RunError: it is not what the run was planned with.

        """
        dataset = load_dataset(self.source, image_size=self.image_size)
        if dataset.sha256 != self.data_sha256:
            raise RunError(f"{self.source} has changed since this run was trained; train again")
        return dataset

    def split(self, dataset: Dataset) -> tuple[Split, Split]:
        """What the run learns from, and what it is validated on."""
        return split_validation(dataset.train, self.recipe.validation, self.seed, self.classes)


@dataclass(frozen=True, slots=True)
class Run:
    """A finished run, read back."""

    folder: Path
    config: RunConfig
    network: ClassMapNetwork
    best: Epoch

    def load_data(self) -> tuple[Dataset, Split]:
        """The run's data set and its validation split.

        Raises:
            RunError: if the data is not what the run was trained on.

        """
        dataset = self.config.load_data()
        return dataset, self.config.split(dataset)[1]


@dataclass(frozen=True, slots=True)
class RunPlan:
    """A run with its data at hand, not begun yet, or broken off."""

    config: RunConfig
    dataset: Dataset
    device: torch.device
    initial: Weights | None = None
    teachers: Weights = field(default_factory=dict)
    """The weights of the config's teachers, as `Teachers` takes them."""
    begun: bool = False
    """Whether its folder is there already."""

    def trainer(self, world: World | None = None) -> Trainer:
        """What the run will train with; nothing is written yet.

        Raises:
            DataError: there are fewer images than a batch.
            RunError: the recipe fits neither itself nor the data.

        """
        recipe, teachers = self.config.recipe, None
        if self.config.teachers:
            teachers = Teachers(
                self.config.teachers,
                self.teachers,
                classes=len(self.config.classes),
                temperature=recipe.distillation_temperature,
                device=self.device,
            )
        return Trainer(
            recipe,
            self.config.split(self.dataset)[0],
            classes=self.config.classes,
            normalisation=self.config.normalisation,
            device=self.device,
            seed=self.config.seed,
            initial=self.initial,
            world=world,
            teachers=teachers,
        )

    def train(
        self,
        folder: Path,
        callbacks: Sequence[Callback] = (),
        *,
        watching: Mapping[str, Callback] | None = None,
        trainer: Trainer | None = None,
    ) -> Record:
        """Train and write the run folder, which is new, or has a state to go on from.

        What the callbacks in `watching` hold by their names is saved with each epoch and goes into
        the history.

        Raises:
            RunError: `folder` is not empty or cannot be written, or the loss diverges.
            DataError: there are fewer images than a batch.

        """
        trainer = trainer or self.trainer()
        leads = trainer.world.leads
        if leads and not self.begun:
            self._begin(folder)
        writer = RunWriter(folder, {"": History(), **(watching or {})})
        resumes = self.begun and (folder / STATE).is_file()
        record = writer.resume(trainer) if resumes else Record()
        saving = (writer,) if leads else ()
        validation = self.config.split(self.dataset)[1]
        record = train(
            trainer, validation, [*writer.watching.values(), *saving, *callbacks], record
        )
        if leads:
            writer.finish(record)
        return record

    def _begin(self, folder: Path) -> None:
        if folder.exists() and any(folder.iterdir()):
            raise RunError(
                f"{folder} is not empty; choose another --out, or go on with it: --resume {folder}"
            )
        folder.mkdir(parents=True, exist_ok=True)
        if self.initial is not None:
            write_tensors(folder / INITIAL, self.initial)
        if self.teachers:
            write_tensors(folder / TEACHERS, self.teachers)
        write_text(folder / CONFIG, self.config.model_dump_json(indent=2) + "\n")


def plan_run(
    source: str,
    *,
    recipe_name: str,
    recipe: Recipe,
    seed: int,
    device: torch.device,
    image_size: int | tuple[int, int] = 64,
    normalisation: Normalisation | None = None,
    origin: str | None = None,
    processes: int = 1,
) -> RunPlan:
    """Load `source`, set its validation split aside and note what the run will be.

    Raises:
        DataError: the data is not there, is corrupt or cannot be split.

    """
    dataset = load_dataset(source, image_size=image_size)
    fit, _ = split_validation(dataset.train, recipe.validation, seed, dataset.classes)
    config = RunConfig(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        source=source if source in DATASETS else str(Path(source).resolve()),
        image_size=image_size,
        image=dataset.image,
        data_sha256=dataset.sha256,
        classes=dataset.classes,
        recipe_name=recipe_name,
        recipe=recipe,
        seed=seed,
        device=torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        bfloat16=uses_bfloat16(device),
        threads=torch.get_num_threads(),
        processes=processes,
        normalisation=normalisation or Normalisation.of(fit.images),
        origin=origin,
        libraries=library_versions(),
    )
    return RunPlan(config, dataset, device)


def resume_run(folder: Path, device: torch.device, *, processes: int = 1) -> RunPlan:
    """The plan of a run that was broken off.

    Raises:
        RunError: `folder` is no run, is finished, was begun by another number of processes, or its
            data has changed.

    """
    config = read_config(folder)
    if config.processes != processes:
        raise RunError(
            f"{folder} was begun by {config.processes} processes and cannot go on with "
            f"{processes}; start it with torchrun --nproc-per-node {config.processes}"
        )
    if is_finished(folder):
        raise RunError(f"{folder} is finished; next: limelight export {folder}")
    initial = read_tensors(folder / INITIAL)[0] if (folder / INITIAL).is_file() else None
    teachers = read_tensors(folder / TEACHERS)[0] if config.teachers else {}
    # Sums depend on how many threads share them.
    torch.set_num_threads(config.threads)
    return RunPlan(config, config.load_data(), device, initial, teachers, begun=True)


def is_finished(folder: Path) -> bool:
    """Whether a run's last epoch is behind it."""
    return (folder / CHECKPOINT).is_file() and not (folder / STATE).is_file()


def library_versions() -> dict[str, str]:
    """Versions of the libraries that decide a run's and an export's result."""
    # ONNX Runtime comes as one of two distributions, which hold one module.
    installed = {name: version(name) for name in LIBRARIES}
    return installed | {"onnxruntime": onnxruntime.__version__}


def read_config(folder: Path) -> RunConfig:
    """Read what a run was planned as.

    Raises:
        RunError: `folder` is no run, or one of another version of this program.

    """
    if not (folder / CONFIG).is_file():
        raise RunError(f"{folder} is not a run: {CONFIG} is missing")
    try:
        return RunConfig.model_validate_json((folder / CONFIG).read_text())
    except (ValidationError, OSError) as error:
        raise RunError(f"{folder} cannot be read: {error}") from error


def read_run(folder: Path) -> Run:
    """Read a run's configuration and its best epoch's network.

    Raises:
        RunError: if a file is missing or cannot be read.

    """
    config = read_config(folder)
    for name in (EPOCHS, CHECKPOINT):
        if not (folder / name).is_file():
            raise RunError(f"{folder} is not a run: {name} is missing")
    try:
        lines = (folder / EPOCHS).read_text().splitlines()
        epochs = [Epoch(**json.loads(line)) for line in lines]
    except (ValueError, TypeError, OSError) as error:
        raise RunError(f"{folder} cannot be read: {error}") from error
    if not epochs:
        raise RunError(f"{folder}: no epoch was finished; train again")
    weights, _ = read_tensors(folder / CHECKPOINT)
    network = load_network(
        config.recipe.network,
        weights,
        name=str(folder),
        channels=len(config.normalisation.mean),
        classes=len(config.classes),
    )
    return Run(folder, config, network, Record(epochs=epochs).best)


def describe_training(config: RunConfig) -> dict[str, JsonValue]:
    """The part of a run's configuration that goes into the manifest."""
    fields = config.model_dump(mode="json")
    recorded = {key: fields[key] for key in RECORDED}
    return {"recipe": config.recipe_name, **fields["recipe"], **recorded}
