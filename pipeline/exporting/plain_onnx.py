"""Export of a run as one ONNX file for any runtime, without an artefact around it."""

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor, nn

from models.calibrator import Calibrator
from models.serving_graph import ServingGraph
from pipeline.atomic_files import new_file
from pipeline.errors import GateError
from pipeline.evaluation.calibration import calibrate
from pipeline.exporting.parity import EXACT
from pipeline.exporting.serialization import save_onnx, trace
from pipeline.runs.run import Run
from pipeline.training.inference import evaluate

OUTPUTS = ("probabilities", "logits")
_COMPARED = 64


class PlainGraph(nn.Module):
    """`images`, uint8 (N, H, W, C), to calibrated `probabilities` and `logits`, both (N, K)."""

    def __init__(self, graph: ServingGraph) -> None:
        super().__init__()
        self.served = graph  # `torch.fx` has its own attribute `graph`

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Classify images that were prepared by the image rule."""
        logits, probabilities, *_ = self.served(images)
        return probabilities, logits


def export_onnx(run: Run, file: Path) -> Path:
    """Write a run's network as one ONNX file, calibrated on its validation images; return `file`.

    Normalisation, calibration and softmax are in the graph. Its metadata hold `classes` and
    `image`, the rule by which images are prepared, as JSON.

    Raises:
        GateError: the file does not give the outputs of eager torch.
        UnwritableError: the file cannot be written.
        PipelineError: the run's data is missing or has changed.

    """
    config, validation = run.config, run.data.validation
    logits = evaluate(run.network, validation.images, config.normalisation, torch.device("cpu"))
    calibrator = Calibrator.of(calibrate(logits, torch.from_numpy(validation.labels)))
    graph = PlainGraph(ServingGraph(run.network, config.normalisation, calibrator)).eval()
    images = torch.from_numpy(validation.images[:_COMPARED])
    with new_file(file, "make room, or choose another --to") as part:
        save_onnx(trace(graph, images[:2]), OUTPUTS, part)
        _add_metadata(part, classes=list(config.classes), image=config.image.model_dump())
        _compare(part, graph, images)
    return file


def _add_metadata(file: Path, **entries: object) -> None:
    model = onnx.load(file)
    for name, value in entries.items():
        model.metadata_props.add(key=name, value=json.dumps(value, ensure_ascii=False))
    onnx.save(model, file)


def _compare(file: Path, graph: PlainGraph, images: Tensor) -> None:
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    (probabilities,) = session.run(["probabilities"], {"images": images.numpy()})
    with torch.inference_mode():
        expected = graph(images)[0].numpy()
    error = float(np.abs(probabilities - expected).max())
    if not error <= EXACT.probability:
        raise GateError(
            f"{file.name}: probabilities differ from eager torch by {error:.2e}, at most "
            f"{EXACT.probability:.0e} is allowed"
        )
