"""A graph in each of the forms that an artefact holds."""

import hashlib
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import onnx
import torch
from torch import nn
from torch.export import ExportedProgram

from limelight.artifact.manifest import FileFormat, ModelFile
from models.serving_graph import ServingGraph
from pipeline.errors import GateError

OPSET = 20


def trace(graph: ServingGraph, example: torch.Tensor) -> ExportedProgram:
    """What torch.export makes of the graph, for batches of any size."""
    return torch.export.export(
        graph, (example,), dynamic_shapes={"images": {0: torch.export.Dim("N")}}
    )


def save_onnx(traced: ExportedProgram, outputs: Sequence[str], file: Path) -> None:
    """Write ONNX, its weights inside.

    Raises:
        GateError: the ONNX checker refuses what torch wrote.

    """
    program = torch.onnx.export(
        traced,
        dynamo=True,
        input_names=["images"],
        output_names=list(outputs),
        opset_version=OPSET,
        verbose=False,
    )
    if program is None:
        raise GateError("torch.onnx gave no program")
    program.save(file, external_data=False)
    try:
        onnx.checker.check_model(onnx.load(file), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise GateError(f"{file.name}: the ONNX checker refuses it: {error}") from error


@contextmanager
def _deprecated_torchscript() -> Iterator[None]:
    """TorchScript is deprecated in favour of torch.export, which stands beside it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        # The size of an image is fixed on purpose; that of a batch is never made a number.
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # type: ignore[attr-defined]
        yield


def save_torchscript(graph: ServingGraph, example: torch.Tensor, file: Path) -> None:
    """Write TorchScript, traced."""
    with _deprecated_torchscript(), torch.inference_mode():
        traced = torch.jit.trace(graph, (example,))  # type: ignore[no-untyped-call]
        torch.jit.save(traced, str(file))


def load_torchscript(file: Path, device: torch.device) -> nn.Module:
    """Read what `save_torchscript` wrote."""
    with _deprecated_torchscript():
        return torch.jit.load(str(file), map_location=device)  # type: ignore[no-any-return, no-untyped-call]


def describe(file: Path, form: FileFormat) -> ModelFile:
    """What a manifest says of a file."""
    content = file.read_bytes()
    return ModelFile(sha256=hashlib.sha256(content).hexdigest(), bytes=len(content), format=form)
