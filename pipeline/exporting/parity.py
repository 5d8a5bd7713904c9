"""Gates of an export: every format must give the outputs of eager torch."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from limelight.artifact.measurements import Parity
from models.serving_graph import ServingGraph
from pipeline.data.stored_images import Images
from pipeline.errors import GateError

BATCH_SIZES = (1, 7, 64)
IMAGES, IN_SMALL_BATCHES = 1000, 100
MAX_LAYERCAM_ERROR = 1e-3
MAX_CAM_IDENTITY_ERROR = 1e-4
_CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True)
class Bounds:
    """Largest differences from eager torch that a format may have."""

    probability: float
    cam: float
    ood_score: float
    """Share of the largest OOD score, or of 1."""
    disagreements: float
    """Share of the images whose predicted class may differ."""


EXACT = Bounds(probability=1e-5, cam=1e-4, ood_score=1e-4, disagreements=0.0)
# A float16 value has 11 significant bits, so a close decision between two classes may change.
FP16 = Bounds(probability=0.05, cam=0.5, ood_score=0.05, disagreements=0.003)

Arrays = Mapping[str, NDArray[np.float32]]
Runtime = Callable[[NDArray[np.uint8]], Arrays]
"""Forward pass: uint8 images (N, H, W, C) to the graph's outputs by name."""


@dataclass(frozen=True, slots=True)
class TorchRuntime:
    """Torch module with the serving graph's signature, as a `Runtime`."""

    module: Callable[[torch.Tensor], tuple[torch.Tensor, ...]]
    names: tuple[str, ...]
    device: torch.device = _CPU
    """The module's device."""

    def __call__(self, images_nhwc: NDArray[np.uint8]) -> Arrays:
        """Run the module on a batch."""
        with torch.inference_mode():
            outputs = self.module(torch.from_numpy(images_nhwc).to(self.device))
        return {name: out.cpu().numpy() for name, out in zip(self.names, outputs, strict=True)}


def measure_parity(runtime: Runtime, graph: ServingGraph, images: Images) -> Parity:
    """Compare a runtime with eager torch: 1,000 images at batch size 64, and 100 at 1 and 7."""
    most = min(IMAGES, len(images))
    head = graph.network.head
    bias = head.bias.detach().numpy()
    reference = _in_batches(TorchRuntime(graph, graph.outputs), images, most, max(BATCH_SIZES))
    probability_errors, cam_errors, ood_errors = [], [], []
    layercam_errors, identity_errors = [], []
    disagreements = 0
    for batch_size in BATCH_SIZES:
        count = most if batch_size == max(BATCH_SIZES) else min(IN_SMALL_BATCHES, most)
        outputs = _in_batches(runtime, images, count, batch_size)
        expected = {name: values[:count] for name, values in reference.items()}
        probabilities = outputs["probabilities"]
        probability_errors.append(np.abs(probabilities - expected["probabilities"]).max())
        predicted = expected["probabilities"].argmax(1)
        disagreements += int((probabilities.argmax(1) != predicted).sum())
        cam_errors += [np.abs(outputs[it] - expected[it]).max() for it in ("cams", "features")]
        ood_errors.append(_error_of_scores(outputs["ood_score"], expected["ood_score"]))
        if "layercams" in expected:
            layercam_errors.append(_relative_error(outputs["layercams"], expected["layercams"]))
        from_cams = outputs["cams"].mean((2, 3), dtype=np.float64) + bias
        identity_errors.append(np.abs(from_cams - outputs["logits"]).max())
    return Parity(
        images=most,
        batch_sizes=BATCH_SIZES,
        max_probability_error=float(np.max(probability_errors)),
        top1_disagreements=disagreements,
        max_cam_error=float(np.max(cam_errors)),
        max_ood_error=float(np.max(ood_errors)),
        mean_layercam_error=float(np.max(layercam_errors)) if layercam_errors else None,
        max_cam_identity_error=float(np.max(identity_errors)) if head.exact else None,
    )


def check_parity(name: str, parity: Parity, bounds: Bounds = EXACT) -> None:
    """Check that a format's outputs are those of eager torch.

    Raises:
        GateError: a figure is out of bounds; the message says which. NaN is out of every bound.

    """
    if not parity.max_probability_error <= bounds.probability:
        raise GateError(
            f"{name}: probabilities differ from eager torch by {parity.max_probability_error:.2e}, "
            f"at most {bounds.probability:.0e} is allowed"
        )
    allowed = int(bounds.disagreements * parity.images)
    if parity.top1_disagreements > allowed:
        raise GateError(
            f"{name}: {parity.top1_disagreements} predicted classes of {parity.images} images at "
            f"batch sizes {parity.batch_sizes} differ from eager torch, at most {allowed} may"
        )
    if not (parity.max_cam_error or 0.0) <= bounds.cam:
        raise GateError(
            f"{name}: maps differ from eager torch by {parity.max_cam_error:.2e}, "
            f"at most {bounds.cam:.0e} is allowed"
        )
    if not (parity.max_ood_error or 0.0) <= bounds.ood_score:
        raise GateError(
            f"{name}: OOD scores differ from eager torch by {parity.max_ood_error:.2e} of the "
            f"largest, at most {bounds.ood_score:.0e} is allowed"
        )
    if not (parity.mean_layercam_error or 0.0) <= MAX_LAYERCAM_ERROR:
        raise GateError(
            f"{name}: LayerCAM maps differ from eager torch by {parity.mean_layercam_error:.2e} "
            f"of their mean, at most {MAX_LAYERCAM_ERROR:.0e} is allowed"
        )
    if parity.max_cam_identity_error is None:
        return
    if not parity.max_cam_identity_error <= MAX_CAM_IDENTITY_ERROR:
        raise GateError(
            f"{name}: mean(cam) + bias differs from the logit by "
            f"{parity.max_cam_identity_error:.2e}, at most {MAX_CAM_IDENTITY_ERROR:.0e} is allowed"
        )


def _relative_error(actual: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    """Mean difference as a share of the mean of `expected`, which is nowhere negative."""
    return float(np.abs(actual - expected).mean() / max(expected.mean(), 1e-12))


def _error_of_scores(actual: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    """Largest difference as a share of the largest score, or of 1 if that is larger.

    The scale of an OOD score depends on the network, and the error of its rounding follows it.
    """
    return float(np.abs(actual - expected).max() / max(np.abs(expected).max(), 1.0))


def _in_batches(runtime: Runtime, images: Images, count: int, size: int) -> Arrays:
    """Run the first `count` images in batches."""
    starts = range(0, count, size)
    parts = [runtime(images[start : min(start + size, count)]) for start in starts]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
