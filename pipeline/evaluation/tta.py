"""Test-time augmentation (TTA): mean prediction over shifted and mirrored copies of an image."""

import math
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.calibrator import Calibrator
from models.normalization import Normalisation
from pipeline.data.stored_images import Images, in_batches
from pipeline.training.augmentation.geometry import pad_reflect
from pipeline.training.inference import evaluate
from pipeline.training.recipe import Augmentation


def tta_views(images_nhwc: NDArray[np.uint8], choice: Augmentation) -> Iterator[NDArray[np.uint8]]:
    """Yield fixed views of the images that training may also produce, uint8 (N, H, W, C) each.

    The first view is the images themselves. If training crops, four views follow, shifted towards
    each corner by a quarter of its padding (at least one pixel) and reflected at the border. A
    shift by the whole padding, which is rare in training, lowers the accuracy. If training
    mirrors, each view is also mirrored. There are 1, 2, 5 or 10 views.
    """
    height, width = images_nhwc.shape[1:3]
    shift = math.ceil(choice.pad / 4)
    padded = pad_reflect(torch.from_numpy(images_nhwc), shift).numpy()
    ends = (0, 2 * shift) if shift else ()
    for top, left in [(shift, shift), *((top, left) for top in ends for left in ends)]:
        window = padded[:, top : top + height, left : left + width]
        yield np.ascontiguousarray(window)
        if choice.flip != "none":
            yield np.ascontiguousarray(window[:, :, ::-1])


def evaluate_tta(
    network: nn.Module,
    images: Images,
    normalisation: Normalisation,
    device: torch.device,
    choice: Augmentation,
    *,
    calibrator: Calibrator | None = None,
) -> Tensor:
    """Average the probabilities over `tta_views`: their log, (N, K), on the CPU.

    As in fast.ai's lessons (2018), probabilities are averaged, not logits. Logs of probabilities
    can be used as logits. Each view is calibrated by `calibrator`, if there is one.
    """
    calibrated = calibrator or Calibrator()

    def log_mean(batch: NDArray[np.uint8]) -> Tensor:
        logs = [
            calibrated(evaluate(network, view, normalisation, device).double()).log_softmax(1)
            for view in tta_views(batch, choice)
        ]
        return torch.stack(logs).logsumexp(0) - math.log(len(logs))

    return torch.cat([log_mean(batch) for batch in in_batches(images)])
