"""What a model that was trained before gives to a new one: its network, weights and input."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from models import NetworkOptions
from pipeline.checkpoint import read_tensors
from pipeline.derived import share_images
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
    classes: tuple[str, ...]
    weights: Weights
    data: str
    data_sha256: str
    seed: int
    validation: float
    """With `seed`, which of its data's images it was validated on."""

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width that it was trained with."""
        return self.image.height, self.image.width

    def weights_for(self, classes: Sequence[str]) -> Weights:
        """What a network of `classes` begins with: of other classes than its own, no head."""
        if tuple(classes) == self.classes:
            return self.weights
        return {name: value for name, value in self.weights.items() if not name.startswith(HEAD)}

    def check_validation(self, data: str, data_sha256: str, seed: int, validation: float) -> None:
        """See that a run does not validate on images which this model has learnt.

        `data` is the name of the run's data set, or where its images are.

        Raises:
            RunError: the data is the same, and another part of it would be set aside; or one is
                made of the other.

        """
        if data_sha256 != self.data_sha256:
            if share_images(data, self.data):
                raise RunError(
                    f"{self.name} has learnt images of {self.data} that are in {data} too, and "
                    "would be validated on now; begin --from a model that has not seen them"
                )
            return
        if (seed, validation) != (self.seed, self.validation):
            raise RunError(
                f"{self.name} has learnt images of this data that would be validated on now: it "
                f"set {self.validation:.1%} aside with seed {self.seed}; pass --seed {self.seed} "
                f"--set validation={self.validation:g}"
            )


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
            classes=config.classes,
            weights=dict(run.network.state_dict()),
            data=config.source,
            data_sha256=config.data_sha256,
            seed=config.seed,
            validation=config.recipe.validation,
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
        classes=manifest.classes,
        weights=read_tensors(folder / file)[0],
        data=manifest.data.name,
        data_sha256=manifest.data.sha256,
        seed=_validated(int, manifest, "seed"),
        validation=_validated(float, manifest, "validation"),
    )


def _validated(kind: type[_T], manifest: Manifest, key: str) -> _T:
    try:
        return TypeAdapter(kind).validate_python(manifest.training.get(key))
    except ValidationError as error:
        raise RunError(
            f"--from {manifest.name}/{manifest.version}: its manifest does not say its {key}: "
            f"{error}"
        ) from error
