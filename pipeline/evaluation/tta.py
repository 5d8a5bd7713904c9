"""Test-time augmentation: an image looked at more than once."""

import math
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.normalization import Normalisation
from pipeline.training.augmentation import pad_reflect
from pipeline.training.inference import evaluate
from pipeline.training.recipe import Augmentation

Images = NDArray[np.uint8]


def tta_views(images_nhwc: Images, choice: Augmentation) -> Iterator[Images]:
    """The images as training may have seen them, uint8 (N, H, W, C) each, nothing at random.

    First the images themselves. Where training crops, they follow shifted towards each of the
    four corners by a quarter of its padding, one pixel or more, reflected at the border; the whole
    padding, which training seldom sees, lowers the accuracy. Where training mirrors, each of
    these comes mirrored too. That is 1, 2, 5 or 10 views.
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
    temperature: float = 1.0,
) -> Tensor:
    """Log of the mean, over `tta_views`, of the probabilities at `temperature`: (N, K), on the CPU.

    The mean is of probabilities, not of logits, as fast.ai's lessons (2018) take it. Being logs
    of probabilities, the results serve as logits.
    """
    logs = [
        (evaluate(network, view, normalisation, device).double() / temperature).log_softmax(1)
        for view in tta_views(images, choice)
    ]
    return torch.stack(logs).logsumexp(0) - math.log(len(logs))
