"""What a model that was trained before gives to a new one: its network, weights and input."""

from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from models import NetworkOptions
from pipeline.checkpoint import read_tensors
from pipeline.errors import RunError
from pipeline.normalisation import Normalisation
from pipeline.run_writer import CONFIG
from pipeline.runs import read_run
from pipeline.weights import Weights
from service.artifact import ArtifactError, load_artifact, newest_version
from service.manifest import ImageRule, Manifest

HEAD = "head."
_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """A trained model to begin from."""

    name: str
    network: NetworkOptions
    normalisation: Normalisation
    image: ImageRule
    features: Weights
    """Of everything but the head, which belongs to the old classes."""

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width that it was trained with."""
        return self.image.height, self.image.width


def read_origin(path: Path) -> Origin:
    """Read a run folder, an artefact, or the newest version in a model's folder of artefacts.

    Raises:
        RunError: `path` is none of them, or an artefact without weights.

    """
    if (path / CONFIG).is_file():
        run = read_run(path)
        config = run.config
        return Origin(
            name=str(path),
            network=config.recipe.network,
            normalisation=config.normalisation,
            image=config.image,
            features=_without_head(dict(run.network.state_dict())),
        )
    return _read_artifact(newest_version(path))


def _read_artifact(folder: Path) -> Origin:
    try:
        manifest = load_artifact(folder).manifest
    except ArtifactError as error:
        raise RunError(f"--from {folder}: neither a run nor an artefact ({error})") from error
    file = next((name for name, f in manifest.files.items() if f.format == "safetensors"), None)
    if file is None:
        raise RunError(
            f"--from {folder}: it has no weights to begin from; export its run again, or name "
            "the run"
        )
    return Origin(
        name=f"{manifest.name}/{manifest.version}",
        network=_validated(NetworkOptions, manifest, "network"),
        normalisation=_validated(Normalisation, manifest, "normalisation"),
        image=manifest.image,
        features=_without_head(read_tensors(folder / file)[0]),
    )


def _validated(kind: type[_T], manifest: Manifest, key: str) -> _T:
    try:
        return TypeAdapter(kind).validate_python(manifest.training.get(key))
    except ValidationError as error:
        raise RunError(
            f"--from {manifest.name}/{manifest.version}: its manifest does not say its {key}: "
            f"{error}"
        ) from error


def _without_head(weights: Weights) -> Weights:
    return {name: value for name, value in weights.items() if not name.startswith(HEAD)}
