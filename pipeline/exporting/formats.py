"""Formats of an artefact: their graphs, their files, and their comparison with eager torch."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch.export.passes import move_to_device_pass

from limelight.artifact.field_types import FileFormat
from limelight.artifact.manifest import ModelFile
from limelight.artifact.measurements import Parity
from limelight.artifact.store import Artifact
from limelight.runtime.engine import Engine
from limelight.runtime.onnx_session import Device
from models.calibrator import Calibrator
from models.ood_scores import OodScore
from models.serving_graph import ServingGraph, find_layercam_stage
from pipeline.data.registry import Split
from pipeline.data.stored_images import Images
from pipeline.exporting.parity import (
    EXACT,
    FP16,
    Runtime,
    TorchRuntime,
    check_parity,
    measure_parity,
)
from pipeline.exporting.serialization import (
    describe,
    load_torchscript,
    save_onnx,
    save_onnx_part,
    save_program,
    save_torchscript,
    trace,
)
from pipeline.progress import Progress, silent
from pipeline.runs.run import Run
from pipeline.runs.tensor_files import write_tensors
from pipeline.training.weights import copied

ONNX, TORCHSCRIPT, PT2 = "model.onnx", "model.ts", "model.pt2"
LAYERCAM_ONNX, FP16_ONNX = "model.layercam.onnx", "model.fp16.onnx"
INT8_ONNX = "model.int8.onnx"
WEIGHTS = "model.safetensors"
_FORMATS: dict[str, FileFormat] = {
    ONNX: "onnx",
    LAYERCAM_ONNX: "onnx-layercam",
    FP16_ONNX: "onnx-fp16",
}
# A forward pass of this graph takes ten times as long, so it is compared on fewer images.
_LAYERCAM_IMAGES = 100
_CPU = torch.device("cpu")


def make_graphs(
    run: Run,
    calibrator: Calibrator,
    ood_score: OodScore,
    example: torch.Tensor,
    *,
    layercam: bool,
    fp16: bool,
) -> dict[str, ServingGraph]:
    """Make the graphs to export, by the name of their ONNX file.

    Args:
        run: the run whose network the graphs compute.
        calibrator: calibrates the probabilities.
        ood_score: score of images unlike the training data.
        example: two images, uint8 (2, H, W, C).
        layercam: also make the graph with LayerCAM maps, if the network allows it.
        fp16: also make a graph whose layers compute in float16.

    """
    network, normalisation = run.network, run.config.normalisation
    stage = find_layercam_stage(network, normalisation, example) if layercam else None
    graph = partial(ServingGraph, network, normalisation, calibrator, ood_score=ood_score)
    graphs = {ONNX: graph()}
    if stage is not None:
        graphs[LAYERCAM_ONNX] = graph(stage=stage)
    if fp16:
        graphs[FP16_ONNX] = graph(fp16=True)
    return {file: each.eval() for file, each in graphs.items()}


def save_formats(
    folder: Path,
    graphs: dict[str, ServingGraph],
    example: torch.Tensor,
    progress: Progress = silent,
) -> dict[str, ModelFile]:
    """Write every format of `graphs` into `folder`, and describe each file, by name.

    `example` are two images, uint8 (2, H, W, C); `progress` is told each file.
    """
    graph = graphs[ONNX]

    def begin(file: str) -> Path:
        progress(f"writing {file}", 0, 0)
        return folder / file

    save_torchscript(graph, example, begin(TORCHSCRIPT))
    file = begin(PT2)
    program = trace(graph, example)
    save_program(program, file)
    # `limelight finetune` initialises from this file: only this format keeps the layers' names.
    write_tensors(folder / WEIGHTS, copied(graph.network.state_dict()))
    for name in graphs.keys() - {ONNX}:
        file = begin(name)
        save_onnx(trace(graphs[name], example), graphs[name].outputs, file)
    file = begin(ONNX)
    if LAYERCAM_ONNX in graphs:
        # Its graph contains this one, and a conversion takes seconds.
        save_onnx_part(folder / LAYERCAM_ONNX, graph.outputs, file)
    else:
        save_onnx(program, graph.outputs, file)
    return {name: describe(folder / name, _FORMATS[name]) for name in graphs} | {
        TORCHSCRIPT: describe(folder / TORCHSCRIPT, "torchscript"),
        PT2: describe(folder / PT2, "torch.export"),
        WEIGHTS: describe(folder / WEIGHTS, "safetensors"),
    }


def compare_formats(
    artifact: Artifact,
    engine: Engine,
    graphs: dict[str, ServingGraph],
    test: Split,
    progress: Progress = silent,
) -> dict[str, Parity]:
    """Compare each format with eager torch on the test images, by file.

    `progress` is told each file.

    Raises:
        GateError: a format does not agree.

    """
    step, parity = f"comparing each format with eager torch on {len(test):,} test images", {}
    loaders = runtimes(artifact, engine, graphs)
    for done, (file, load) in enumerate(loaders.items()):
        progress(step, done, len(loaders))
        parity[file] = measure_format(file, load(), graphs, test.images)
    for file, measured in parity.items():
        check_format(file, measured)
    return parity


def runtimes(
    artifact: Artifact,
    engine: Engine,
    graphs: dict[str, ServingGraph],
    device: torch.device = _CPU,
) -> dict[str, Callable[[], Runtime]]:
    """Return a loader for each format of an artefact, by file; `engine` runs the float32 ONNX."""
    folder, outputs = artifact.folder, graphs[ONNX].outputs

    def torchscript() -> Runtime:
        return TorchRuntime(load_torchscript(folder / TORCHSCRIPT, device), outputs, device)

    def exported() -> Runtime:
        program = torch.export.load(folder / PT2)
        if device.type != "cpu":
            # The program checks where its input is: `module().to(device)` would not change that.
            program = move_to_device_pass(program, device)
        return TorchRuntime(program.module(), outputs, device)

    def fp16() -> Runtime:
        on: Device = "cuda" if device.type == "cuda" else "cpu"
        fp16_engine = Engine(artifact, device=on, threads=0, precision="float16")
        return partial(fp16_engine.run, outputs=outputs)

    loaders: dict[str, Callable[[], Runtime]] = {
        ONNX: lambda: partial(engine.run, outputs=outputs),
        TORCHSCRIPT: torchscript,
        PT2: exported,
    }
    if LAYERCAM_ONNX in graphs:
        layercam = graphs[LAYERCAM_ONNX].outputs
        loaders[LAYERCAM_ONNX] = lambda: partial(engine.run, outputs=layercam)
    if FP16_ONNX in graphs:
        loaders[FP16_ONNX] = fp16
    return loaders


def measure_format(
    file: str, runtime: Runtime, graphs: dict[str, ServingGraph], images: Images
) -> Parity:
    """Compare one format with eager torch on images, uint8 (N, H, W, C)."""
    if file == LAYERCAM_ONNX:
        return measure_parity(runtime, graphs[file], images[:_LAYERCAM_IMAGES])
    return measure_parity(runtime, graphs[ONNX], images)


def check_format(file: str, parity: Parity) -> None:
    """Check a format against its bounds.

    Raises:
        GateError: see `check_parity`.

    """
    check_parity(file, parity, FP16 if file == FP16_ONNX else EXACT)
