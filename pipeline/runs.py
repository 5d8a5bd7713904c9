"""A run folder: `config.json`, `epochs.jsonl` and `checkpoint.safetensors`."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import onnxruntime
import torch
from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from models import ClassMapNetwork
from pipeline.datasets import DATASETS, Dataset, Split, load_dataset, split_validation
from pipeline.device import uses_bfloat16
from pipeline.errors import RunError
from pipeline.recipe import Recipe
from pipeline.training import Epoch, Normalisation, Trained, build_network, train

CONFIG, EPOCHS, CHECKPOINT = "config.json", "epochs.jsonl", "checkpoint.safetensors"
LIBRARIES = ("torch", "torchvision", "onnx", "onnxscript", "numpy", "pillow")


class RunConfig(BaseModel):
    """Everything needed to repeat a run, and to export what came of it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    created: str
    source: str
    """Name of the data set, or the folder of labelled images."""
    image_size: int
    data_sha256: str
    classes: tuple[str, ...]
    recipe_name: str
    recipe: Recipe
    seed: int
    device: str
    bfloat16: bool
    threads: int
    normalisation: Normalisation
    libraries: dict[str, str]


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
        dataset = load_dataset(self.config.source, image_size=self.config.image_size)
        if dataset.sha256 != self.config.data_sha256:
            raise RunError(
                f"{self.config.source} has changed since {self.folder} was trained; train again"
            )
        _, validation = split_validation(
            dataset.train, self.config.recipe.validation, self.config.seed
        )
        return dataset, validation


class RunWriter:
    """Writes a run folder as training goes; each file is whole at every moment."""

    def __init__(self, folder: Path, config: RunConfig) -> None:
        if folder.exists() and any(folder.iterdir()):
            raise RunError(f"{folder} is not empty; choose another --out")
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        (folder / CONFIG).write_text(config.model_dump_json(indent=2) + "\n")

    def epoch(self, epoch: Epoch, weights: dict[str, Tensor] | None) -> None:
        """Append an epoch's figures; replace the checkpoint if these are better weights."""
        if weights is not None:
            staging = self.folder / (CHECKPOINT + ".part")
            save_file(weights, staging, {"epoch": str(epoch.epoch)})
            with staging.open("rb") as file:
                os.fsync(file.fileno())
            staging.replace(self.folder / CHECKPOINT)
        with (self.folder / EPOCHS).open("a") as lines:
            lines.write(json.dumps(epoch.as_json()) + "\n")


@dataclass(frozen=True, slots=True)
class NewRun:
    """A run with its data at hand, not begun yet."""

    config: RunConfig
    fit: Split
    validation: Split
    device: torch.device

    def train(
        self,
        folder: Path,
        *,
        on_batch: Callable[[int, int, float], None] = lambda step, steps, loss: None,
        on_epoch: Callable[[Epoch, bool], None] = lambda epoch, best: None,
    ) -> Trained:
        """Train and write the run folder; `on_epoch` is told whether an epoch is the best so far.

        Raises:
            RunError: `folder` is not empty, or the loss stops being a number.
            DataError: there are fewer images than a batch.

        """
        writer = RunWriter(folder, self.config)

        def finish_epoch(epoch: Epoch, weights: dict[str, Tensor] | None) -> None:
            writer.epoch(epoch, weights)
            on_epoch(epoch, weights is not None)

        return train(
            self.config.recipe,
            self.fit,
            self.validation,
            classes=len(self.config.classes),
            normalisation=self.config.normalisation,
            device=self.device,
            seed=self.config.seed,
            on_batch=on_batch,
            on_epoch=finish_epoch,
        )


def plan_run(
    source: str,
    *,
    recipe_name: str,
    recipe: Recipe,
    seed: int,
    device: torch.device,
    image_size: int = 64,
) -> NewRun:
    """Load `source`, set its validation split aside and note what the run will be.

    Raises:
        DataError: the data is not there, is corrupt or cannot be split.

    """
    dataset = load_dataset(source, image_size=image_size)
    fit, validation = split_validation(dataset.train, recipe.validation, seed)
    config = RunConfig(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        source=source if source in DATASETS else str(Path(source).resolve()),
        image_size=image_size,
        data_sha256=dataset.sha256,
        classes=dataset.classes,
        recipe_name=recipe_name,
        recipe=recipe,
        seed=seed,
        device=torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        bfloat16=uses_bfloat16(device),
        threads=torch.get_num_threads(),
        normalisation=Normalisation.of(fit.images),
        libraries=library_versions(),
    )
    return NewRun(config, fit, validation, device)


def library_versions() -> dict[str, str]:
    """Versions of the libraries that decide a run's and an export's result."""
    # ONNX Runtime comes as one of two distributions, which hold one module.
    installed = {name: version(name) for name in LIBRARIES}
    return installed | {"onnxruntime": onnxruntime.__version__}


def read_run(folder: Path) -> Run:
    """Read a run's configuration and its best epoch's network.

    Raises:
        RunError: if a file is missing or cannot be read.

    """
    for name in (CONFIG, EPOCHS, CHECKPOINT):
        if not (folder / name).is_file():
            raise RunError(f"{folder} is not a run: {name} is missing")
    try:
        config = RunConfig.model_validate_json((folder / CONFIG).read_text())
        lines = (folder / EPOCHS).read_text().splitlines()
        epochs = [Epoch(**json.loads(line)) for line in lines]
        weights = load_file(folder / CHECKPOINT)
    except (ValidationError, SafetensorError, ValueError, TypeError, OSError) as error:
        raise RunError(f"{folder} cannot be read: {error}") from error
    if not epochs:
        raise RunError(f"{folder}: no epoch was finished; train again")
    normalisation = config.normalisation
    network = build_network(
        config.recipe, channels=len(normalisation.mean), classes=len(config.classes)
    )
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise RunError(f"{folder}: the checkpoint does not fit its recipe: {error}") from error
    best = max(epochs, key=lambda epoch: epoch.rank)
    return Run(folder, config, network.eval(), best)


def describe_training(config: RunConfig) -> dict[str, JsonValue]:
    """The part of a run's configuration that goes into the manifest."""
    fields = config.model_dump(mode="json")
    kept = ("seed", "device", "bfloat16", "threads", "normalisation")
    return {"recipe": config.recipe_name, **fields["recipe"], **{key: fields[key] for key in kept}}
