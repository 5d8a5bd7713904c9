"""The torch network of an artefact, for what its graph does not give: hooks and gradients."""

from dataclasses import dataclass
from pathlib import Path

from models import ClassMapNetwork, build_network
from pipeline.checkpoint import read_tensors
from pipeline.errors import RunError
from pipeline.finetuning import read_origin
from pipeline.normalisation import Normalisation
from service.artifact import load_artifact, newest_version
from service.manifest import Manifest


@dataclass(frozen=True, kw_only=True, slots=True)
class Trained:
    """A network in evaluation mode, on the CPU, and what its images have to be brought to."""

    network: ClassMapNetwork
    normalisation: Normalisation
    manifest: Manifest


def read_trained(path: Path) -> Trained:
    """Read an artefact, or the newest version in a model's folder of artefacts.

    Raises:
        RunError: `path` is neither, or an artefact whose weights are missing or of another network.

    """
    folder = newest_version(path)
    origin = read_origin(folder)
    manifest = load_artifact(folder).manifest
    file = next(name for name, each in manifest.files.items() if each.format == "safetensors")
    try:
        network = build_network(
            origin.network, in_channels=manifest.image.channels, classes=len(manifest.classes)
        )
        network.load_state_dict(read_tensors(folder / file)[0])
    except (ValueError, RuntimeError) as error:
        raise RunError(f"{folder}: its weights are not its network's ({error})") from error
    network.eval()
    return Trained(network=network, normalisation=origin.normalisation, manifest=manifest)
