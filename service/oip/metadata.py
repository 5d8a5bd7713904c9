"""Model metadata in the form of the protocol: inputs and outputs."""

from dataclasses import dataclass

from limelight.artifact.manifest import Manifest, TensorSpec

IMAGES = "images"
"""Name of the input for pixels: UINT8 (N, H, W, C)."""
IMAGE_BYTES = "image_bytes"
"""Name of the input for encoded images, which the service decodes: BYTES (N, 1)."""
OVERLAY = "overlay_png"
"""Name of the output for pictures, the upload with a map drawn over it: BYTES (N, 1)."""
PLATFORM = "onnxruntime_onnx"

_DATATYPES = {"uint8": "UINT8", "float32": "FP32"}


@dataclass(frozen=True, slots=True)
class TensorMetadata:
    """Name, datatype and shape of a tensor; -1 is a variable dimension."""

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ModelMetadata:
    name: str
    versions: tuple[str, ...]
    platform: str
    inputs: tuple[TensorMetadata, ...]
    outputs: tuple[TensorMetadata, ...]


def model_metadata(manifest: Manifest, versions: tuple[str, ...]) -> ModelMetadata:
    """Return the metadata: two alternative inputs, the outputs of the graph, and the picture.

    `versions` are those that are served.
    """
    return ModelMetadata(
        name=manifest.name,
        versions=versions,
        platform=PLATFORM,
        inputs=(
            *(_metadata(tensor) for tensor in manifest.inputs),
            TensorMetadata(IMAGE_BYTES, "BYTES", (-1, 1)),
        ),
        outputs=(
            *(_metadata(tensor) for tensor in manifest.outputs),
            TensorMetadata(OVERLAY, "BYTES", (-1, 1)),
        ),
    )


def _metadata(tensor: TensorSpec) -> TensorMetadata:
    shape = tuple(-1 if isinstance(size, str) else size for size in tensor.shape)
    return TensorMetadata(tensor.name, _DATATYPES[tensor.dtype], shape)
