"""Initialise a run from a pretrained model, or distil it from such models."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from limelight.artifact.manifest import Manifest
from limelight.artifact.store import ArtifactError, load_artifact, newest_version
from limelight.imaging.image_rule import ImageRule
from limelight.labels import normalized
from models import NetworkOptions
from models.normalization import Normalisation
from pipeline.data.registry import share_images
from pipeline.data.splits import stratified_indices
from pipeline.errors import RunError
from pipeline.runs.run import read_run
from pipeline.runs.run_folder import CONFIG
from pipeline.runs.run_plan import RunPlan
from pipeline.runs.tensor_files import parse_tensors
from pipeline.training.teacher import Teacher
from pipeline.training.weights import HEAD, Weights

_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Pretrained:
    """A pretrained model: its weights, and how it was trained."""

    name: str
    network: NetworkOptions
    normalisation: Normalisation
    image: ImageRule
    classes: tuple[str, ...]
    weights: Weights
    data: str
    data_sha256: str
    split_seed: int
    validation: float
    """Share of its data that was held out for validation, by `split_seed`."""

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of its images."""
        return self.image.height, self.image.width

    def has_classes(self, classes: Sequence[str]) -> bool:
        """Return whether the model has these classes, in this order."""
        return [*map(normalized, classes)] == [*map(normalized, self.classes)]

    def weights_for(self, classes: Sequence[str]) -> Weights:
        """Select the weights for a network of `classes`; without the head, if they are others."""
        if self.has_classes(classes):
            return self.weights
        return {name: value for name, value in self.weights.items() if not name.startswith(HEAD)}

    def check_validation(
        self,
        data: str,
        data_sha256: str,
        labels: NDArray[np.int64],
        *,
        seed: int,
        validation: float,
    ) -> None:
        """Check that a run does not validate on images which this model was trained on.

        `data` is the name of the run's data set, or the path of its images, and `labels`, (N,), are
        those of its training images.

        Raises:
            RunError: the data is the same, and the model was trained on some of the validation
                images; or one data set is a subset of the other.

        """
        if data_sha256 != self.data_sha256:
            if share_images(data, self.data):
                raise RunError(
                    f"{self.name} was trained on images of {self.data} that this run would "
                    f"validate on as images of {data}; choose another model"
                )
            return
        _, held_out = stratified_indices(labels, validation, seed)
        _, held_out_before = stratified_indices(labels, self.validation, self.split_seed)
        learnt = np.setdiff1d(held_out, held_out_before)
        if len(learnt):
            raise RunError(
                f"{self.name} was trained on {len(learnt):,} of the {len(held_out):,} images that "
                f"this run would validate on: it held out {self.validation:.1%} with seed "
                f"{self.split_seed}; pass --set validation_seed={self.split_seed} "
                f"--set validation={self.validation:g}"
            )


def read_pretrained(path: Path) -> Pretrained:
    """Read a run folder, an artefact, or the newest version in a model's folder of artefacts.

    Raises:
        RunError: `path` is none of them, or an artefact without weights.

    """
    if (path / CONFIG).is_file():
        run = read_run(path)
        config = run.config
        return Pretrained(
            # Without its folder: an exported manifest names its teachers.
            name=path.resolve().name,
            network=config.recipe.network,
            normalisation=config.normalisation,
            image=config.image,
            classes=config.classes,
            weights=dict(run.network.state_dict()),
            data=config.source,
            data_sha256=config.data_sha256,
            split_seed=config.recipe.split_seed(config.seed),
            validation=config.recipe.validation,
        )
    return _read_artifact(newest_version(path))


def initialise_from(plan: RunPlan, pretrained: Pretrained) -> RunPlan:
    """Initialise the run from the weights of `pretrained`.

    Raises:
        RunError: it takes other images, or was trained on some of the validation images.

    """
    _check(plan, pretrained)
    return replace(plan, initial=pretrained.weights_for(plan.config.classes))


def distil_from(plan: RunPlan, paths: Sequence[Path]) -> RunPlan:
    """Make the models at `paths` teachers of the run, which then ignores the labels.

    Raises:
        RunError: a model cannot be read, takes other images, has other classes, or was trained on
            validation images; or the recipe has class weights.

    """
    config, teachers = plan.config, [read_pretrained(path) for path in paths]
    if teachers and config.recipe.class_weights:
        raise RunError(
            "--class-weights has no effect with --teacher, since labels are ignored: leave out one"
        )
    for teacher in teachers:
        if not teacher.has_classes(config.classes):
            raise RunError(
                f"--teacher {teacher.name} has the classes {', '.join(teacher.classes)}, and "
                f"{config.source} has {', '.join(config.classes)}; choose another model"
            )
        _check(plan, teacher)
    described = tuple(
        Teacher(name=each.name, network=each.network, normalisation=each.normalisation)
        for each in teachers
    )
    weights = {
        f"{number}.{name}": value
        for number, teacher in enumerate(teachers)
        for name, value in teacher.weights.items()
    }
    return plan.distilled_from(described, weights)


def _check(plan: RunPlan, pretrained: Pretrained) -> None:
    config, channels = plan.config, plan.dataset.train.images.shape[3]
    if channels != pretrained.image.channels:
        raise RunError(
            f"{pretrained.name} takes images of {pretrained.image.channels} channel(s), and "
            f"{config.source} has {channels}; choose another model"
        )
    same_name = Path(config.source).name == Path(pretrained.data).name
    size = config.image.height, config.image.width
    # The digest is one of the decoded images: those of another size have another one.
    resized = same_name and size != pretrained.image_size
    digest = pretrained.data_sha256 if resized else config.data_sha256
    if plan.dataset.validation is not None and digest == pretrained.data_sha256:
        return  # its own validation images are the same for every run
    pretrained.check_validation(
        config.source,
        digest,
        plan.dataset.train.labels,
        seed=config.recipe.split_seed(config.seed),
        validation=config.recipe.validation,
    )


def _read_artifact(folder: Path) -> Pretrained:
    try:
        artifact = load_artifact(folder)
        manifest = artifact.manifest
    except ArtifactError as error:
        raise RunError(f"{folder}: neither a run nor an artefact ({error})") from error
    file = next((name for name, f in manifest.files.items() if f.format == "safetensors"), None)
    if file is None:
        raise RunError(
            f"--from {folder}: it has no weights to initialise from; export its run again, or name "
            "the run"
        )
    return Pretrained(
        name=f"{manifest.name}/{manifest.version}",
        network=_validated(NetworkOptions, manifest, "network"),
        normalisation=_validated(Normalisation, manifest, "normalisation"),
        image=manifest.image,
        classes=manifest.classes,
        weights=parse_tensors(artifact.read(file), str(folder / file)),
        data=manifest.data.name,
        data_sha256=manifest.data.sha256,
        split_seed=_split_seed(manifest),
        validation=_validated(float, manifest, "validation"),
    )


def _split_seed(manifest: Manifest) -> int:
    own = manifest.training.get("validation_seed")
    return _validated(int, manifest, "seed" if own is None else "validation_seed")


def _validated(kind: type[_T], manifest: Manifest, key: str) -> _T:
    try:
        return TypeAdapter(kind).validate_python(manifest.training.get(key))
    except ValidationError as error:
        raise RunError(
            f"--from {manifest.name}/{manifest.version}: its manifest does not say its {key}: "
            f"{error}"
        ) from error
