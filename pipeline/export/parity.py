"""The export's gates: every format must give the answers of eager torch."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from limelight.artifact.manifest import Parity
from models.serving_graph import ServingGraph
from pipeline.errors import GateError

BATCH_SIZES = (1, 7, 64)
IMAGES, IN_SMALL_BATCHES = 1000, 100
MAX_LAYERCAM_ERROR = 1e-3
MAX_CAM_IDENTITY_ERROR = 1e-4
_CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True)
class Bounds:
    """How far a format may be from eager torch."""

    probability: float
    cam: float
    disagreements: float
    """Share of the answers."""


EXACT = Bounds(probability=1e-5, cam=1e-4, disagreements=0.0)
# Eleven bits a value: an answer that hangs in the balance may fall the other way.
FP16 = Bounds(probability=0.05, cam=0.5, disagreements=0.003)

Arrays = Mapping[str, NDArray[np.float32]]
Runtime = Callable[[NDArray[np.uint8]], Arrays]
"""One pass of uint8 images (N, H, W, C) to the graph's outputs."""


@dataclass(frozen=True, slots=True)
class TorchRuntime:
    """A torch module with the serving graph's signature, as a `Runtime`."""

    module: Callable[[torch.Tensor], tuple[torch.Tensor, ...]]
    names: tuple[str, ...]
    device: torch.device = _CPU
    """Where the module is."""

    def __call__(self, images_nhwc: NDArray[np.uint8]) -> Arrays:
        """Run the module on a batch."""
        with torch.inference_mode():
            outputs = self.module(torch.from_numpy(images_nhwc).to(self.device))
        return {name: out.cpu().numpy() for name, out in zip(self.names, outputs, strict=True)}


def measure_parity(runtime: Runtime, graph: ServingGraph, images: NDArray[np.uint8]) -> Parity:
    """Compare a runtime with eager torch: 1,000 images at batch size 64, and 100 at 1 and 7."""
    images = images[:IMAGES]
    head = graph.network.head
    bias = head.bias.detach().numpy()
    everything = _in_batches(TorchRuntime(graph, graph.outputs), images, max(BATCH_SIZES))
    smooth = [name for name in graph.outputs[2:] if name != "layercams"]
    fine_errors = []
    probability_errors, cam_errors, identity_errors, disagreements = [], [], [], 0
    for batch_size in BATCH_SIZES:
        count = len(images) if batch_size == max(BATCH_SIZES) else IN_SMALL_BATCHES
        outputs = _in_batches(runtime, images[:count], batch_size)
        expected = {name: values[:count] for name, values in everything.items()}
        probabilities = outputs["probabilities"]
        probability_errors.append(np.abs(probabilities - expected["probabilities"]).max())
        winners = expected["probabilities"].argmax(1)
        disagreements += int((probabilities.argmax(1) != winners).sum())
        cam_errors += [np.abs(outputs[it] - expected[it]).max() for it in smooth]
        if "layercams" in expected:
            fine_errors.append(_share(outputs["layercams"], expected["layercams"]))
        from_cams = outputs["cams"].mean((2, 3), dtype=np.float64) + bias
        identity_errors.append(np.abs(from_cams - outputs["logits"]).max())
    return Parity(
        images=len(images),
        batch_sizes=BATCH_SIZES,
        max_probability_error=float(np.max(probability_errors)),
        top1_disagreements=disagreements,
        max_cam_error=float(np.max(cam_errors)),
        mean_layercam_error=float(np.max(fine_errors)) if fine_errors else None,
        max_cam_identity_error=float(np.max(identity_errors)) if head.exact else None,
    )


def check_parity(name: str, parity: Parity, bounds: Bounds = EXACT) -> None:
    """Fail unless a format's answers are those of eager torch.

    Raises:
        GateError: with the figure that is out of bounds. NaN is out of every bound.

    """
    if not parity.max_probability_error <= bounds.probability:
        raise GateError(
            f"{name}: probabilities differ from eager torch by {parity.max_probability_error:.2e}, "
            f"allowed are {bounds.probability:.0e}"
        )
    allowed = int(bounds.disagreements * parity.images)
    if parity.top1_disagreements > allowed:
        raise GateError(
            f"{name}: {parity.top1_disagreements} answers of {parity.images} images at batch sizes "
            f"{parity.batch_sizes} are not those of eager torch, allowed are {allowed}"
        )
    if not (parity.max_cam_error or 0.0) <= bounds.cam:
        raise GateError(
            f"{name}: maps differ from eager torch by {parity.max_cam_error:.2e}, "
            f"allowed are {bounds.cam:.0e}"
        )
    if not (parity.mean_layercam_error or 0.0) <= MAX_LAYERCAM_ERROR:
        raise GateError(
            f"{name}: finer maps differ from eager torch by {parity.mean_layercam_error:.2e} of "
            f"their mean, allowed are {MAX_LAYERCAM_ERROR:.0e}"
        )
    if parity.max_cam_identity_error is None:
        return
    if not parity.max_cam_identity_error <= MAX_CAM_IDENTITY_ERROR:
        raise GateError(
            f"{name}: mean(cam) + bias differs from the logit by "
            f"{parity.max_cam_identity_error:.2e}, allowed are {MAX_CAM_IDENTITY_ERROR:.0e}"
        )


def _share(found: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    """Mean difference as a share of what is expected, which is nowhere negative."""
    return float(np.abs(found - expected).mean() / max(expected.mean(), 1e-12))


def _in_batches(runtime: Runtime, images: NDArray[np.uint8], size: int) -> Arrays:
    parts = [runtime(images[start : start + size]) for start in range(0, len(images), size)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
