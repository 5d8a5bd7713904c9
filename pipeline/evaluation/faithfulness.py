"""Whether maps show what the network depends on: measured, and beside maps of noise."""

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
from pipeline.evaluation.saliency import Images, Look, Maps, enlarged, look_at, maps_of, ranks_of

EXPLAINED, FEWEST = 128, 32
"""Images that the maps are measured on, and of a expensive network at least."""
# Multiply-accumulates of one look at each of them. Every image is looked at some hundred times.
_WORK = 16e9
STEPS = 16
"""Of deletion and insertion, from nothing to everything."""
SHUFFLES = 10
MAX_HEAD_SIMILARITY = 0.5
# Insertion begins with the image blurred over this share of its side.
_BLUR = 0.125

Shown = Method | Literal["random"]


def how_many(multiply_accumulates: int) -> int:
    """On how many images the maps of a network are measured whose pass takes so many."""
    return min(EXPLAINED, max(FEWEST, int(_WORK / multiply_accumulates)))


def measure_faithfulness(
    look: Look,
    head: Head,
    validation: Split,
    *,
    rule: ImageRule,
    methods: Sequence[Method],
    images: int,
) -> Faithfulness:
    """Measure the maps of each of `methods` on the first validation images, and those of noise.

    Args:
        look: the network as served.
        head: its head in torch, for the check with shuffled weights.
        validation: images (N, H, W, C) as the network takes them, and their labels.
        rule: how a scene becomes the network's input.
        methods: ways to explain; `contrast` is left out, being a difference of maps.
        images: how many are looked at, at most; see `how_many`.

    """
    chosen, labels = validation.images[:images], validation.labels[:images]
    classes = look_at(look, chosen, "probabilities").argmax(1)
    cams = look_at(look, chosen, "cams")
    rng = np.random.default_rng(0)
    shown: dict[Shown, list[Maps]] = {
        "random": list(rng.random((len(chosen), *cams.shape[2:]), np.float32))
    }
    shown |= {it: maps_of(look, chosen, classes, it) for it in methods if it != "contrast"}
    game = play_pointing_game(look, chosen, labels, rule, list(shown))
    removed = {it: deletion(look, chosen, classes, maps) for it, maps in shown.items()}
    restored = {it: insertion(look, chosen, classes, maps) for it, maps in shown.items()}
    measured = {
        method: MethodFaithfulness(
            deletion=float(removed[method].mean()),
            insertion=float(restored[method].mean()),
            road=road(look, chosen, classes, maps),
            pointing=None if game is None else game.hits[method],
        )
        for method, maps in shown.items()
    }
    cam, noise = (restored[it] - removed[it] for it in ("cam", "random"))
    return Faithfulness(
        images=len(chosen),
        scenes=0 if game is None else game.scenes,
        chance=None if game is None else game.chance,
        methods=measured,
        gain=float((cam - noise).mean()),
        gain_error=float((cam - noise).std() / len(cam) ** 0.5),
        head_similarity=head_similarity(head, look_at(look, chosen, "features"), classes),
    )


def check_faithfulness(name: str, faithfulness: Faithfulness) -> None:
    """Fail where the class activation map is worth less than noise.

    Raises:
        GateError: the map points out less than a random one, by more than two standard errors,
            or does not depend on the head.

    """
    if not faithfulness.gain > -2 * faithfulness.gain_error:
        raise GateError(
            f"{name}: insertion less deletion is {faithfulness.gain:.3f} (standard error "
            f"{faithfulness.gain_error:.3f}) off that of a map of noise: the class activation map "
            "does not show what the network depends on. Train longer, or look at "
            "`limelight inspect`"
        )
    if not faithfulness.head_similarity <= MAX_HEAD_SIMILARITY:
        raise GateError(
            f"{name}: with the head's weights shuffled the maps correlate by "
            f"{faithfulness.head_similarity:.2f} with what they were, allowed are "
            f"{MAX_HEAD_SIMILARITY}: they do not show what the network has learned"
        )


def deletion(
    look: Look, images: Images, classes: NDArray[np.int64], maps: Sequence[Maps]
) -> NDArray[np.float64]:
    """Area under the class's probability while pixels get the image's mean colour, (N,).

    Those that the map puts first go first (Petsiuk, Das and Saenko, 2018, RISE, section 4.2).
    """
    empty = np.stack([np.broadcast_to(mean_colour(image), image.shape) for image in images])
    return _area(look, images, empty, classes, maps)


def insertion(
    look: Look, images: Images, classes: NDArray[np.int64], maps: Sequence[Maps]
) -> NDArray[np.float64]:
    """Area under the class's probability while a blurred image becomes sharp, (N,).

    Where the map puts pixels first it does so first (as for `deletion`).
    """
    return _area(look, np.stack([_blurred(image) for image in images]), images, classes, maps)


def head_similarity(head: Head, features: Maps, classes: NDArray[np.int64]) -> float:
    """Mean rank correlation of maps with those of the head with shuffled weights, ten times.

    Of the sanity checks of Adebayo et al. (2018), the randomisation of the last layer. A map that
    is constant correlates with nothing. `features` (N, C, h, w) are what the head was given.
    """
    given, rows = torch.from_numpy(features), np.arange(len(classes))
    rng = torch.Generator().manual_seed(0)
    on_cpu = copy.deepcopy(head).cpu()
    with torch.inference_mode():
        learned = on_cpu.class_activation_maps(given).numpy()[rows, classes]
        shuffled = [
            _shuffled(on_cpu, rng).class_activation_maps(given).numpy()[rows, classes]
            for _ in range(SHUFFLES)
        ]
    pairs = ((map_hw, other[at]) for other in shuffled for at, map_hw in enumerate(learned))
    return float(np.mean([_rank_correlation(*pair) for pair in pairs]))


def _area(
    look: Look,
    before: NDArray[np.generic],
    after: NDArray[np.generic],
    classes: NDArray[np.int64],
    maps: Sequence[Maps],
) -> NDArray[np.float64]:
    """Mean of the classes' probabilities, by the trapezoidal rule, as `before` turns to `after`."""
    height, width = before.shape[1:3]
    ranks = np.stack([ranks_of(enlarged(map_hw, height, width)) for map_hw in maps])
    rows, curve = np.arange(len(classes)), []
    for step in range(STEPS + 1):
        changed = (ranks < step / STEPS)[..., None]
        images = np.rint(np.where(changed, after, before)).astype(np.uint8)
        curve.append(look_at(look, images, "probabilities")[rows, classes].astype(np.float64))
    area: NDArray[np.float64] = np.trapezoid(np.stack(curve), dx=1 / STEPS, axis=0)
    return area


def _blurred(image_hwc: Images) -> Images:
    image = picture_of(image_hwc)
    blurred = image.filter(ImageFilter.GaussianBlur(_BLUR * max(image.size)))
    return np.asarray(blurred).reshape(image_hwc.shape)


def _shuffled(head: Head, rng: torch.Generator) -> Head:
    """A copy of the head whose weights change their places, and hence keep their distribution."""
    shuffled = copy.deepcopy(head)
    with torch.no_grad():
        for weight in shuffled.parameters():
            order = torch.randperm(weight.numel(), generator=rng)
            weight.copy_(weight.flatten()[order].reshape(weight.shape))
    return shuffled


def _rank_correlation(one: Maps, other: Maps) -> float:
    """Spearman's; 0 where one of the maps is constant, which it is not defined for."""
    if np.ptp(one) == 0 or np.ptp(other) == 0:
        return 0.0
    return float(spearmanr(one, other, axis=None).statistic)
