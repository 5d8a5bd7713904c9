"""int8 graph of an export: static quantisation of the convolutions, and its gate.

Weights get 8 bits with a scale for each output channel, and the inputs of the convolutions 8 bits
with one scale each, from their range on training images. Weights use 7 of their 8 bits: on
processors with AVX2 and no VNNI, the sum of two 8-bit products saturates at 16 bits.
"""

import contextlib
import io
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)

from limelight.artifact.golden import total_variation
from limelight.artifact.measurements import Int8, Metrics
from limelight.runtime.engine import Engine
from pipeline.data.splits import Split
from pipeline.data.stored_images import Images
from pipeline.errors import GateError
from pipeline.evaluation.reliability import expected_calibration_error
from pipeline.exporting.serialization import save_checked
from pipeline.progress import Progress, silent

CALIBRATION_IMAGES = 512
PERCENTILES = (99.99, 99.999, 100.0)
"""Candidates for the share of the activations that a range covers. Wider ranges have coarser
steps, narrower ones cut the largest activations off."""
MOST_ACCURACY_LOST = 0.001
MOST_CALIBRATION_ERROR_ADDED = 0.001
FEWEST_EQUAL_WINNERS = 0.995
LEAST_MAP_CORRELATION = 0.98
_BATCH = 32
_CALIBRATION_BATCH = 8
_OUTPUTS = ("probabilities", "cams")


@dataclass(frozen=True, kw_only=True, slots=True)
class Quantized:
    """Choices with which an int8 graph was made."""

    percentile: float
    float_layers: tuple[str, ...]
    calibration_images: int


def quantize(
    plain: Path,
    file: Path,
    fit: Images,
    validation: Images,
    *,
    seed: int = 0,
    progress: Progress = silent,
) -> Quantized:
    """Write the int8 graph of the ONNX file `plain` to `file`.

    The first convolution stays in float32: it is little work, and rounding the pixels' inputs costs
    most accuracy. So do those behind the features, so that the mean of a map is the logit. The
    ranges come from 512 images of `fit`, uint8 (N, H, W, C). Of several percentiles, the one is
    chosen that changes the fewest predictions for `validation`.
    """
    count = min(CALIBRATION_IMAGES, len(fit))
    chosen = np.sort(np.random.default_rng(seed).permutation(len(fit))[:count])
    reader = _Reader(fit[chosen])
    float_layers = _float_layers(onnx.load(plain))
    wanted = _probabilities(plain, validation)
    candidates: list[tuple[int, float, float, bytes]] = []
    for done, percentile in enumerate(PERCENTILES):
        progress(f"writing {file.name}", done, len(PERCENTILES))
        _quantize(plain, file, reader, percentile, float_layers)
        found = _probabilities(file, validation)
        changed = found.argmax(1) != wanted.argmax(1)
        distance = float(total_variation(found, wanted).mean())
        candidates.append((int(changed.sum()), distance, percentile, file.read_bytes()))
    *_, percentile, content = min(candidates)
    file.write_bytes(content)
    return Quantized(percentile=percentile, float_layers=float_layers, calibration_images=count)


def measure_int8(how: Quantized, int8: Engine, plain: Engine, test: Split) -> Int8:
    """Compare the two graphs on the test set; its images are prepared by `as_served`."""
    equal, distances, correlations, probabilities = [], [], [], []
    for at in range(0, len(test), _BATCH):
        images = test.images[at : at + _BATCH]
        found, wanted = int8.run(images, _OUTPUTS), plain.run(images, _OUTPUTS)
        winners = wanted["probabilities"].argmax(1)
        equal.append(found["probabilities"].argmax(1) == winners)
        distances.append(total_variation(found["probabilities"], wanted["probabilities"]))
        rows = np.arange(len(images))
        correlations.append(
            correlation(found["cams"][rows, winners], wanted["cams"][rows, winners])
        )
        probabilities.append(found["probabilities"])
    predicted = torch.from_numpy(np.concatenate(probabilities))
    labels = torch.from_numpy(test.labels)
    return Int8(
        calibration_images=how.calibration_images,
        percentile=how.percentile,
        float_layers=how.float_layers,
        images=len(test),
        accuracy=float((predicted.argmax(1) == labels).double().mean()),
        ece=expected_calibration_error(predicted, labels),
        equal_winners=float(np.concatenate(equal).mean()),
        map_correlation=float(np.concatenate(correlations).mean()),
        probability_error=float(np.concatenate(distances).mean()),
    )


def check_int8(int8: Int8, plain: Metrics) -> None:
    """Check the int8 graph against its bounds.

    Raises:
        GateError: it is worse than the float32 graph by more than they allow.

    """
    lost, added = plain.accuracy - int8.accuracy, int8.ece - plain.ece
    problems = [
        f"{name} {found:.2%}, and {bound} {limit:.2%} is allowed"
        for name, found, bound, limit, wrong in (
            ("accuracy falls by", lost, "at most", MOST_ACCURACY_LOST, lost > MOST_ACCURACY_LOST),
            (
                "calibration error rises by",
                added,
                "at most",
                MOST_CALIBRATION_ERROR_ADDED,
                added > MOST_CALIBRATION_ERROR_ADDED,
            ),
            (
                "equal predictions:",
                int8.equal_winners,
                "at least",
                FEWEST_EQUAL_WINNERS,
                int8.equal_winners < FEWEST_EQUAL_WINNERS,
            ),
            (
                "correlation of the maps:",
                int8.map_correlation,
                "at least",
                LEAST_MAP_CORRELATION,
                int8.map_correlation < LEAST_MAP_CORRELATION,
            ),
        )
        if wrong
    ]
    if problems:
        raise GateError(
            f"the int8 graph is too far from float32 on {int8.images:,} test images: "
            f"{'; '.join(problems)}. Export without --int8"
        )


def correlation(one: NDArray[np.float32], other: NDArray[np.float32]) -> NDArray[np.float64]:
    """Pearson correlation of each pair of maps: (N, h, w) x 2 -> (N,); 1 for two constant maps."""
    first, second = (maps.reshape(len(maps), -1).astype(np.float64) for maps in (one, other))
    first -= first.mean(1, keepdims=True)
    second -= second.mean(1, keepdims=True)
    sizes = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    both_flat = (first == 0).all(1) & (second == 0).all(1)
    together = (first * second).sum(1) / np.where(sizes > 0, sizes, 1)
    return np.where(both_flat, 1.0, together)


def _float_layers(model: onnx.ModelProto) -> tuple[str, ...]:
    """Name the first convolution, those that compute an output, and those of the head.

    The latter read the features, which are an output. Maps and logits then agree as in float32.
    """
    outputs = {output.name for output in model.graph.output}
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    return tuple(
        node.name
        for place, node in enumerate(convolutions)
        if place == 0 or not outputs.isdisjoint([*node.input, *node.output])
    )


def _quantize(
    plain: Path,
    file: Path,
    reader: "_Reader",
    percentile: float,
    float_layers: tuple[str, ...],
    *,
    reduce_range: bool = True,
) -> None:
    reader.set_range(0, len(reader))
    method = CalibrationMethod.MinMax if percentile == 100 else CalibrationMethod.Percentile
    with _quiet():
        quantize_static(
            plain,
            file,
            reader,
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv"],
            nodes_to_exclude=list(float_layers),
            per_channel=True,
            reduce_range=reduce_range,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=method,
            # The stride, one batch, bounds the activations that are in memory, for every method.
            extra_options={"CalibPercentile": percentile, "CalibStridedMinMax": 1},
        )
    save_checked(onnx.load(file), file)


def _probabilities(file: Path, images: Images) -> NDArray[np.float32]:
    session = ort.InferenceSession(file, providers=["CPUExecutionProvider"])
    parts = [
        session.run(["probabilities"], {"images": images[at : at + _BATCH]})[0]
        for at in range(0, len(images), _BATCH)
    ]
    return np.concatenate(parts)


class _Reader(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
    """Batches of images, of which ONNX Runtime asks for a range at a time."""

    def __init__(self, images: NDArray[np.uint8]) -> None:
        self._batches = [
            images[at : at + _CALIBRATION_BATCH] for at in range(0, len(images), _CALIBRATION_BATCH)
        ]
        self._rest: Iterator[NDArray[np.uint8]] = iter(())

    def __len__(self) -> int:
        return len(self._batches)

    def set_range(self, start_index: int, end_index: int) -> None:
        self._rest = iter(self._batches[start_index:end_index])

    def get_next(self) -> dict[str, Any] | None:
        images = next(self._rest, None)
        return None if images is None else {"images": images}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep ONNX Runtime from printing its progress, and from advice on preparing the graph."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(level)
