"""Golden samples of an artefact: a few images with the outputs that its graphs must give."""

import io
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from limelight.artifact.measurements import GoldenError
from limelight.artifact.store import Artifact, ArtifactError

GOLDEN_FILE = "golden.npz"
GOLDEN_OUTPUTS = ("probabilities", "cams")
# An export writes up to 4 MB of images, and maps of up to 32 classes or few positions.
_MAX_BYTES = 64_000_000


@dataclass(frozen=True, slots=True)
class GoldenSamples:
    """Images, uint8 (M, H, W, C), and their `GOLDEN_OUTPUTS` by name, M first."""

    images: NDArray[np.uint8]
    outputs: Mapping[str, NDArray[np.float32]]

    def error_of(self, outputs: Mapping[str, NDArray[np.float32]]) -> GoldenError:
        """Compare a graph's outputs for `images` with the golden ones."""
        wanted = self.outputs
        distance = total_variation(outputs["probabilities"], wanted["probabilities"])
        size = float(np.linalg.norm(wanted["cams"])) or 1.0
        return GoldenError(
            probabilities=float(distance.mean()),
            cams=float(np.linalg.norm(outputs["cams"] - wanted["cams"])) / size,
        )

    def write(self, file: Path) -> None:
        """Write the samples, as NumPy arrays in an archive."""
        np.savez(file, allow_pickle=False, images=self.images, **self.outputs)


def total_variation(found: NDArray[np.float32], wanted: NDArray[np.float32]) -> NDArray[np.float64]:
    """Total variation distance of two distributions of each image: (N, K) x 2 -> (N,), 0 to 1."""
    distances: NDArray[np.float64] = np.abs(found - wanted).sum(1, dtype=np.float64) / 2
    return distances


def read_golden(artifact: Artifact) -> GoldenSamples | None:
    """Read and verify the golden samples; None if the artefact has none.

    Raises:
        ArtifactError: the file is missing or altered, or does not fit the manifest.
    """
    manifest = artifact.manifest
    if (name := manifest.golden_file) is None or manifest.golden is None:
        return None
    images, rule, classes = manifest.golden.images, manifest.image, len(manifest.classes)
    shapes = {
        "images": (images, rule.height, rule.width, rule.channels),
        "probabilities": (images, classes),
        "cams": (images, classes, *manifest.cam_shape),
    }
    try:
        arrays = _arrays(artifact.read(name), set(shapes))
    except (KeyError, ValueError, EOFError, OSError, zipfile.BadZipFile, zlib.error) as error:
        raise ArtifactError(
            f"{artifact.folder / name} holds no golden samples ({error}): export the run again"
        ) from error
    for key, shape in shapes.items():
        kind = np.uint8 if key == "images" else np.float32
        if arrays[key].shape != shape or arrays[key].dtype != kind:
            raise ArtifactError(
                f"{artifact.folder / name}: {key!r} is {arrays[key].dtype} {arrays[key].shape}, "
                f"and the manifest demands {np.dtype(kind)} {shape}: export the run again"
            )
    return GoldenSamples(arrays.pop("images"), arrays)


def _arrays(content: bytes, names: set[str]) -> dict[str, NDArray[Any]]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        size = sum(entry.file_size for entry in archive.infolist())
    if size > _MAX_BYTES:
        raise ValueError(f"{size:,} bytes, and at most {_MAX_BYTES:,} are read")
    with np.load(io.BytesIO(content), allow_pickle=False) as stored:
        return {name: stored[name] for name in names}
