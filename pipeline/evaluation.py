"""The published figures: the test set through the service's own image and engine code."""

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from pipeline.calibration import expected_calibration_error
from pipeline.datasets import Split
from service.engine import Engine
from service.images import prepare
from service.manifest import ImageRule, Metrics

BATCH = 64


def as_served(images_nhwc: NDArray[np.uint8], rule: ImageRule) -> NDArray[np.uint8]:
    """Bring uint8 images (N, H, W, C) to the network's input as the service would an upload."""
    squeezed = images_nhwc[..., 0] if images_nhwc.shape[3] == 1 else images_nhwc
    return np.stack([prepare(Image.fromarray(image), rule)[0] for image in squeezed])


def evaluate_artifact(engine: Engine, test: Split) -> Metrics:
    """Measure what is served on the test set, one view an image, its images `as_served`."""
    images = test.images
    outputs = [
        engine.run(images[start : start + BATCH], ["logits", "probabilities"])
        for start in range(0, len(images), BATCH)
    ]
    logits, probabilities = (
        torch.from_numpy(np.concatenate([output[name] for output in outputs]))
        for name in ("logits", "probabilities")
    )
    labels = torch.from_numpy(test.labels)
    calibrated = logits.double() / engine.manifest.calibration.temperature
    return Metrics(
        images=len(labels),
        accuracy=float((probabilities.argmax(1) == labels).double().mean()),
        log_loss=float(nn.functional.cross_entropy(calibrated, labels)),
        ece=expected_calibration_error(probabilities, labels),
    )
