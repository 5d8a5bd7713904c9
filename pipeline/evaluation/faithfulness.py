"""Faithfulness of maps: how well they show what the network depends on, next to random maps."""

import copy
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import ImageFilter
from scipy.stats import spearmanr

from limelight.artifact.manifest import Faithfulness, ImageRule, Method, MethodFaithfulness
from limelight.explanations.perturbation import mean_colour
from limelight.imaging.preprocessing import picture_of
from models import Head
from pipeline.data.splits import Split
from pipeline.errors import GateError
from pipeline.evaluation.pointing_game import play_pointing_game
from pipeline.evaluation.road import road
from pipeline.evaluation.saliency import (
    Images,
    Infer,
    Maps,
    enlarged,
    infer_output,
    maps_of,
    ranks_of,
)

EXPLAINED, FEWEST = 128, 32
"""Number of images that the maps are measured on, and the minimum for an expensive network."""
# Multiply-accumulates of one forward pass of all images. Each image takes about a hundred.
_WORK = 16e9
STEPS = 16
"""Steps of deletion and insertion, from no pixel changed to all."""
SHUFFLES = 10
MAX_HEAD_SIMILARITY = 0.5
# Insertion starts from a blurred image; the blur's radius is this share of the longest side.
_BLUR = 0.125

Shown = Method | Literal["random"]


def images_to_explain(multiply_accumulates: int) -> int:
    """Choose the number of images to measure the maps on, by the cost of one forward pass."""
    return min(EXPLAINED, max(FEWEST, int(_WORK / multiply_accumulates)))


def measure_faithfulness(
    infer: Infer,
    head: Head,
    validation: Split,
    *,
    rule: ImageRule,
    methods: Sequence[Method],
    images: int,
) -> Faithfulness:
    """Measure the maps of each method, and random maps, on the first validation images.

    Args:
        infer: the network as served.
        head: its head in torch, for the check with shuffled weights.
        validation: prepared images (N, H, W, C) and their labels.
        rule: image rule, which turns a scene into the network's input.
        methods: explanation methods; `contrast` is skipped, as it is a difference of two maps.
        images: largest number of images; see `images_to_explain`.

    """
    chosen, labels = validation.images[:images], validation.labels[:images]
    classes = infer_output(infer, chosen, "probabilities").argmax(1)
    cams = infer_output(infer, chosen, "cams")
    rng = np.random.default_rng(0)
    shown: dict[Shown, list[Maps]] = {
        "random": list(rng.random((len(chosen), *cams.shape[2:]), np.float32))
    }
    shown |= {it: maps_of(infer, chosen, classes, it) for it in methods if it != "contrast"}
    game = play_pointing_game(infer, chosen, labels, rule, list(shown))
    deletions = {it: deletion(infer, chosen, classes, maps) for it, maps in shown.items()}
    insertions = {it: insertion(infer, chosen, classes, maps) for it, maps in shown.items()}
    measured = {
        method: MethodFaithfulness(
            deletion=float(deletions[method].mean()),
            insertion=float(insertions[method].mean()),
            road=road(infer, chosen, classes, maps),
            pointing=None if game is None else game.hits[method],
        )
        for method, maps in shown.items()
    }
    cam, noise = (insertions[it] - deletions[it] for it in ("cam", "random"))
    return Faithfulness(
        images=len(chosen),
        scenes=0 if game is None else game.scenes,
        chance=None if game is None else game.chance,
        methods=measured,
        gain=float((cam - noise).mean()),
        gain_error=float((cam - noise).std() / len(cam) ** 0.5),
        head_similarity=head_similarity(head, infer_output(infer, chosen, "features"), classes),
    )


def check_faithfulness(name: str, faithfulness: Faithfulness) -> None:
    """Reject a class activation map that is less faithful than a random map.

    Raises:
        GateError: insertion less deletion is lower than that of a random map, by more than two
            standard errors, or the map does not depend on the head's weights.

    """
    if not faithfulness.gain > -2 * faithfulness.gain_error:
        raise GateError(
            f"{name}: insertion less deletion differs by {faithfulness.gain:.3f} (standard error "
            f"{faithfulness.gain_error:.3f}) from that of a random map: the class activation map "
            "does not show what the network depends on. Train longer, or look at the features "
            "with `limelight inspect`"
        )
    if not faithfulness.head_similarity <= MAX_HEAD_SIMILARITY:
        raise GateError(
            f"{name}: with the head's weights shuffled, the maps correlate by "
            f"{faithfulness.head_similarity:.2f} with the original maps, at most "
            f"{MAX_HEAD_SIMILARITY} is allowed: they do not show what the network has learned. "
            "Train longer"
        )


def deletion(
    infer: Infer, images: Images, classes: NDArray[np.int64], maps: Sequence[Maps]
) -> NDArray[np.float64]:
    """Measure the area under the class's probability while pixels get the mean colour, (N,).

    Pixels with the highest map values change first (Petsiuk, Das and Saenko, 2018, RISE, section
    4.2). Lower is better.
    """
    empty = np.stack([np.broadcast_to(mean_colour(image), image.shape) for image in images])
    return _area(infer, images, empty, classes, maps)


def insertion(
    infer: Infer, images: Images, classes: NDArray[np.int64], maps: Sequence[Maps]
) -> NDArray[np.float64]:
    """Measure the area under the class's probability while a blurred image becomes sharp, (N,).

    Pixels with the highest map values change first, as for `deletion`. Higher is better.
    """
    return _area(infer, np.stack([_blurred(image) for image in images]), images, classes, maps)


def head_similarity(head: Head, features: Maps, classes: NDArray[np.int64]) -> float:
    """Compute the mean rank correlation of maps with those of ten heads with shuffled weights.

    This is one of the sanity checks of Adebayo et al. (2018): randomisation of the last layer. The
    correlation of a constant map is 0. `features` (N, C, h, w) are the head's input.
    """
    inputs, rows = torch.from_numpy(features), np.arange(len(classes))
    rng = torch.Generator().manual_seed(0)
    on_cpu = copy.deepcopy(head).cpu()
    with torch.inference_mode():
        learned = on_cpu.class_activation_maps(inputs).numpy()[rows, classes]
        shuffled = [
            _shuffled(on_cpu, rng).class_activation_maps(inputs).numpy()[rows, classes]
            for _ in range(SHUFFLES)
        ]
    pairs = ((map_hw, other[at]) for other in shuffled for at, map_hw in enumerate(learned))
    return float(np.mean([_rank_correlation(*pair) for pair in pairs]))


def _area(
    infer: Infer,
    before: NDArray[np.generic],
    after: NDArray[np.generic],
    classes: NDArray[np.int64],
    maps: Sequence[Maps],
) -> NDArray[np.float64]:
    """Integrate the classes' probabilities, by the trapezoidal rule, from `before` to `after`."""
    height, width = before.shape[1:3]
    ranks = np.stack([ranks_of(enlarged(map_hw, height, width)) for map_hw in maps])
    rows, curve = np.arange(len(classes)), []
    for step in range(STEPS + 1):
        changed = (ranks < step / STEPS)[..., None]
        images = np.rint(np.where(changed, after, before)).astype(np.uint8)
        probabilities = infer_output(infer, images, "probabilities")
        curve.append(probabilities[rows, classes].astype(np.float64))
    area: NDArray[np.float64] = np.trapezoid(np.stack(curve), dx=1 / STEPS, axis=0)
    return area


def _blurred(image_hwc: Images) -> Images:
    image = picture_of(image_hwc)
    blurred = image.filter(ImageFilter.GaussianBlur(_BLUR * max(image.size)))
    return np.asarray(blurred).reshape(image_hwc.shape)


def _shuffled(head: Head, rng: torch.Generator) -> Head:
    """Copy the head and permute its weights, which keeps their distribution."""
    shuffled = copy.deepcopy(head)
    with torch.no_grad():
        for weight in shuffled.parameters():
            order = torch.randperm(weight.numel(), generator=rng)
            weight.copy_(weight.flatten()[order].reshape(weight.shape))
    return shuffled


def _rank_correlation(one: Maps, other: Maps) -> float:
    """Compute Spearman's rank correlation; 0 if a map is constant, where it is not defined."""
    if np.ptp(one) == 0 or np.ptp(other) == 0:
        return 0.0
    return float(spearmanr(one, other, axis=None).statistic)
