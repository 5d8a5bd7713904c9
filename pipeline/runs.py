"""A run folder: `config.json`, `epochs.jsonl` and `checkpoint.safetensors`."""

import json
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from models import ClassMapNetwork
from pipeline.datasets import Dataset, Split, load_dataset, split_validation
from pipeline.device import uses_bfloat16
from pipeline.errors import RunError
from pipeline.recipe import Recipe
from pipeline.training import Epoch, Normalisation, build_network

CONFIG, EPOCHS, CHECKPOINT = "config.json", "epochs.jsonl", "checkpoint.safetensors"
LIBRARIES = ("torch", "torchvision", "onnx", "onnxscript", "onnxruntime-gpu", "numpy", "pillow")


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


def describe_run(
    dataset: Dataset, *, source: str, image_size: int, recipe_name: str, recipe: Recipe,
    seed: int, device: torch.device, normalisation: Normalisation,
) -> RunConfig:  # fmt: skip
    """Gather a run's configuration, library versions included."""
    is_folder = source != dataset.name
    return RunConfig(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        source=str(Path(source).resolve()) if is_folder else source,
        image_size=image_size,
        data_sha256=dataset.sha256,
        classes=dataset.classes,
        recipe_name=recipe_name,
        recipe=recipe,
        seed=seed,
        device=torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        bfloat16=uses_bfloat16(device),
        threads=torch.get_num_threads(),
        normalisation=normalisation,
        libraries=library_versions(),
    )


def library_versions() -> dict[str, str]:
    """Versions of the libraries that decide a run's and an export's result."""
    return {name: version(name) for name in LIBRARIES}


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


def describe_recipe(config: RunConfig) -> dict[str, JsonValue]:
    """The part of a run's configuration that goes into the manifest."""
    return {
        "recipe": config.recipe_name,
        **config.recipe.model_dump(mode="json"),
        "seed": config.seed,
        "device": config.device,
        "bfloat16": config.bfloat16,
        "threads": config.threads,
        "normalisation": {
            "mean": list(config.normalisation.mean),
            "std": list(config.normalisation.std),
        },
    }
