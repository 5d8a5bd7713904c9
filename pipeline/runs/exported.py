"""The torch network of an artefact, and the run that it was exported from."""

from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from limelight.artifact.manifest import Manifest
from limelight.artifact.store import load_artifact, newest_version
from models import ClassMapNetwork
from models.normalization import Normalisation
from pipeline.data.registry import DATASETS
from pipeline.errors import RunError
from pipeline.runs.pretrained import read_pretrained
from pipeline.runs.run import Run
from pipeline.runs.run_config import RECORDED, RunConfig
from pipeline.training.recipe import Recipe
from pipeline.training.record import Epoch
from pipeline.training.weights import load_network


@dataclass(frozen=True, kw_only=True, slots=True)
class Trained:
    """A network in evaluation mode, on the CPU, and the normalisation of its images."""

    network: ClassMapNetwork
    normalisation: Normalisation
    manifest: Manifest


def read_trained(path: Path) -> Trained:
    """Read an artefact, or the newest version in a model's folder of artefacts.

    Raises:
        RunError: `path` is neither, or the weights are missing or belong to another network.

    """
    folder = newest_version(path)
    pretrained = read_pretrained(folder)
    manifest = load_artifact(folder).manifest
    network = load_network(
        pretrained.network,
        pretrained.weights,
        name=str(folder),
        channels=manifest.image.channels,
        classes=len(manifest.classes),
    )
    return Trained(network=network, normalisation=pretrained.normalisation, manifest=manifest)


def rebuild_run(path: Path) -> Run:
    """Rebuild the run of an artefact, with the weights in it, to export it again.

    Its folder is the artefact's. Of its epochs only the best one is known.

    Raises:
        RunError: `path` is no artefact with weights, its manifest does not say how it was trained,
            or it was trained on the user's own images, whose folder it does not know.

    """
    trained = read_trained(path)
    manifest, folder = trained.manifest, newest_version(path)
    name = f"{manifest.name}/{manifest.version}"
    if manifest.data.name not in DATASETS:
        raise RunError(f"{name}: an artefact does not know where its data is; export its run again")
    fields = dict(manifest.training)
    try:
        best = Epoch(**fields.pop("best_epoch"))  # type: ignore[arg-type]
        about = {key: fields.pop(key) for key in RECORDED if key in fields}
        recipe_name = str(fields.pop("recipe"))
        config = RunConfig.model_validate(
            {
                **about,
                "created": manifest.created,
                "source": manifest.data.name,
                "image_size": (manifest.image.height, manifest.image.width),
                "image": manifest.image,
                "data_sha256": manifest.data.sha256,
                "classes": manifest.classes,
                "recipe_name": recipe_name,
                "recipe": Recipe.of(fields, {}, name=recipe_name),
                "libraries": {
                    library: version
                    for library, version in manifest.libraries.items()
                    if not library.startswith("export:")
                },
            }
        )
    except (KeyError, TypeError, ValidationError) as error:
        raise RunError(f"{name}: its manifest does not say how it was trained: {error}") from error
    return Run(folder, config, trained.network, best)
