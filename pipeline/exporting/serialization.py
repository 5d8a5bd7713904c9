"""Serialisation of a graph: torch.export, ONNX, TorchScript."""

import hashlib
import io
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import onnx
import torch
from google.protobuf.message import Message
from onnxscript import optimizer
from torch import nn
from torch.export import ExportedProgram

from limelight.artifact.field_types import FileFormat
from limelight.artifact.manifest import ModelFile
from models.serving_graph import ServingGraph
from pipeline.errors import GateError

OPSET = 20


def trace(graph: nn.Module, example: torch.Tensor) -> ExportedProgram:
    """Trace the graph with torch.export, for batches of any size."""
    return torch.export.export(
        graph, (example,), dynamic_shapes={"images": {0: torch.export.Dim("N")}}
    )


def save_onnx(traced: ExportedProgram, outputs: Sequence[str], file: Path) -> None:
    """Write one ONNX file that includes the weights.

    Raises:
        GateError: the ONNX checker rejects the file.

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
        raise GateError(f"{file.name}: torch.onnx.export returned no program")
    program.save(file, external_data=False)
    save_checked(onnx.load(file), file)


def save_onnx_part(whole: Path, outputs: Sequence[str], file: Path) -> None:
    """Write the part of the ONNX file `whole` that some of its outputs need.

    It is what `save_onnx` writes for a graph with these outputs only.

    Raises:
        GateError: the ONNX checker rejects the file.

    """
    onnx.utils.extract_model(whole, file, ["images"], list(outputs), check_model=False)
    # Weights that the rest of `whole` used can now be merged, as those of BatchNorm layers.
    save_checked(optimizer.optimize(onnx.load(file)), file)


def save_checked(model: onnx.ModelProto, file: Path) -> None:
    """Write a graph without torch's notes.

    Raises:
        GateError: the ONNX checker rejects the file.

    """
    onnx.save(without_metadata(model), file)
    try:
        onnx.checker.check_model(onnx.load(file), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise GateError(f"{file.name}: the ONNX checker rejects it: {error}") from error


def save_program(traced: ExportedProgram, file: Path) -> None:
    """Write torch.export's format, without the paths of the source files it was traced from."""
    for module in traced.graph_module.modules():
        if isinstance(module, torch.fx.GraphModule):
            for node in module.graph.nodes:
                node.meta.pop("stack_trace", None)
    # In memory first: on a full disk torch raises a RuntimeError that names neither disk nor file.
    content = io.BytesIO()
    torch.export.save(traced, content)
    file.write_bytes(content.getbuffer())


def without_metadata(model: onnx.ModelProto) -> onnx.ModelProto:
    """Remove what torch notes beside a graph: names of its modules, and paths of source files.

    They say nothing of what is computed, name folders of the machine that exported, and would give
    the same run another hash in another folder. Every message of ONNX may have them: the model, its
    functions, graphs, nodes, inputs, outputs and weights.
    """
    messages: list[Message] = [model]
    while messages:
        message = messages.pop()
        for name in ("doc_string", "metadata_props"):
            if name in message.DESCRIPTOR.fields_by_name:
                message.ClearField(name)
        for field, value in message.ListFields():
            if field.message_type is not None:
                messages += [value] if isinstance(value, Message) else value
    return model


@contextmanager
def _deprecated_torchscript() -> Iterator[None]:
    """Silence the deprecation of TorchScript; the artefact has torch.export's format too."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        # Image sizes are fixed on purpose, and no batch size is turned into a constant.
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # type: ignore[attr-defined]
        yield


def save_torchscript(graph: ServingGraph, example: torch.Tensor, file: Path) -> None:
    """Write TorchScript, traced, without the paths of the source files it was traced from."""
    with _deprecated_torchscript(), torch.inference_mode():
        # The export compares all formats itself.
        traced = torch.jit.trace(graph, (example,), check_trace=False)  # type: ignore[no-untyped-call]
        content = io.BytesIO()  # as in `save_program`
        torch.jit.save(traced, content)
    with zipfile.ZipFile(content) as saved, zipfile.ZipFile(file, "w") as written:
        for entry in saved.infolist():
            # Only tracebacks read these: lines and paths of the source.
            if not entry.filename.endswith(".debug_pkl"):
                copy = zipfile.ZipInfo(entry.filename)
                written.writestr(copy, saved.read(entry), entry.compress_type)


def load_torchscript(file: Path, device: torch.device) -> nn.Module:
    """Read a file of `save_torchscript`."""
    with _deprecated_torchscript():
        return torch.jit.load(str(file), map_location=device)  # type: ignore[no-any-return, no-untyped-call]


def describe(file: Path, form: FileFormat) -> ModelFile:
    """Describe a file for the manifest: its size and its SHA-256."""
    with file.open("rb") as content:
        sha256 = hashlib.file_digest(content, "sha256").hexdigest()
    return ModelFile(sha256=sha256, bytes=file.stat().st_size, format=form)
