"""Configuration of a run, and what its folder says without its network.

Reading it needs no torch, which takes seconds to import.
"""

from importlib.metadata import version
from pathlib import Path

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from limelight.artifact.manifest import MANIFEST_FILE
from limelight.artifact.store import newest_version
from limelight.imaging.image_rule import ImageRule
from models.normalization import Normalisation
from pipeline.data.reading_options import Reading
from pipeline.data.registry import DATASETS, load_dataset, source_at
from pipeline.errors import RunError
from pipeline.runs.run_data import RunData, split_run_data
from pipeline.runs.run_folder import CHECKPOINT, CONFIG, EPOCHS, read_epochs
from pipeline.training.recipe import Recipe
from pipeline.training.record import Epoch
from pipeline.training.teacher import Teacher

RECORDED = (
    "seed", "device", "bfloat16", "threads", "processes", "normalisation", "pretrained", "teachers",
)  # fmt: skip
"""Fields that a manifest contains besides the recipe."""
LIBRARIES = ("torch", "torchvision", "onnx", "onnxscript", "numpy", "pillow")


class RunConfig(BaseModel):
    """Everything needed to repeat a run, and to export its model."""

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
    pretrained: str | None = None
    """The pretrained model that the run was initialised from."""
    teachers: tuple[Teacher, ...] = ()
    """The models that the run was distilled from."""
    libraries: dict[str, str]

    def read_data(self, *, moved_to: Path | None = None, reading: Reading | None = None) -> RunData:
        """Read the run's data set and split it.

        Args:
            moved_to: where the user's own images are now, if they moved.
            reading: how they are read.

        Raises:
            RunError: the data is not what the run was planned with.

        """
        source = self.source if moved_to is None else source_at(moved_to)
        if source not in DATASETS and not Path(source).exists():
            raise RunError(f"{source} is no longer there: pass --data PATH if its images moved")
        dataset = load_dataset(source, image_size=self.image_size, reading=reading)
        data = split_run_data(
            dataset, validation=self.recipe.validation, seed=self.recipe.split_seed(self.seed)
        )
        self.check(data)
        return data

    def check(self, data: RunData) -> None:
        """Check that `data` is what the run was planned with.

        Raises:
            RunError: it is not.

        """
        if data.sha256 != self.data_sha256:
            raise RunError(f"{self.source} has changed since this run was trained; train again")
        if data.dataset.classes != self.classes:
            raise RunError(
                f"{self.source} has the classes {', '.join(data.dataset.classes)}, and this run "
                f"was trained on {', '.join(self.classes)}: give them their old names, or train "
                "again"
            )


def library_versions() -> dict[str, str]:
    """Return the versions of the libraries that affect the result of a run or an export."""
    # ONNX Runtime is installed by one of two distributions, which contain the same module.
    import onnxruntime

    installed = {name: version(name) for name in LIBRARIES}
    return installed | {"onnxruntime": onnxruntime.__version__}


def read_config(folder: Path) -> RunConfig:
    """Read the configuration of a run.

    Raises:
        RunError: `folder` is no run, or was written by another version of Limelight.

    """
    if not (folder / CONFIG).is_file():
        raise RunError(f"{folder} is not a run: {CONFIG} is missing")
    try:
        return RunConfig.model_validate_json((folder / CONFIG).read_text())
    except (ValidationError, OSError) as error:
        raise RunError(f"{folder} cannot be read: {error}") from error


def read_results(folder: Path) -> tuple[RunConfig, list[Epoch]]:
    """Read the configuration and the finished epochs of a run that can be evaluated.

    Raises:
        RunError: a file is missing or cannot be read, or no epoch was finished.

    """
    config = read_config(folder)
    for name in (EPOCHS, CHECKPOINT):
        if not (folder / name).is_file():
            raise RunError(f"{folder} is not a run: {name} is missing")
    epochs = read_epochs(folder)
    if not epochs:
        raise RunError(f"{folder}: no epoch was finished; train again")
    return config, epochs


def check_model(path: Path) -> None:
    """Check that `path` is a run that can be evaluated, an artefact, or a folder of them.

    Raises:
        RunError: it is none of them.

    """
    if (path / CONFIG).is_file():
        read_results(path)
    elif not (newest_version(path) / MANIFEST_FILE).is_file():
        raise RunError(
            f"{path}: neither a run nor an artefact; name a folder that limelight train or export "
            "wrote"
        )


def describe_training(config: RunConfig) -> dict[str, JsonValue]:
    """Return the part of a run's configuration that goes into the manifest.

    Models that it learned from are named without the folders that they lie in on this machine.
    """
    teachers = tuple(
        each.model_copy(update={"name": _without_folders(each.name)}) for each in config.teachers
    )
    pretrained = config.pretrained and _without_folders(config.pretrained)
    config = config.model_copy(update={"teachers": teachers, "pretrained": pretrained})
    fields = config.model_dump(mode="json")
    recorded = {key: fields[key] for key in RECORDED}
    return {"recipe": config.recipe_name, **fields["recipe"], **recorded}


def _without_folders(name: str) -> str:
    return Path(name).name if Path(name).is_absolute() else name
