"""Faithfulness of maps: how well they show what the network depends on, next to random maps."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from limelight.artifact.field_types import Method
from limelight.artifact.measurements import Faithfulness, MethodFaithfulness
from limelight.explanations.methods import METHODS
from limelight.imaging.image_rule import ImageRule
from models import Head
from pipeline.data.splits import Split, stratified_sample
from pipeline.errors import GateError
from pipeline.evaluation.graph_inference import Infer, infer_output
from pipeline.evaluation.maps.deletion_insertion import deletion, insertion
from pipeline.evaluation.maps.head_randomization import head_similarity
from pipeline.evaluation.maps.pointing_game import play_pointing_game
from pipeline.evaluation.maps.road import road
from pipeline.evaluation.maps.served_maps import maps_of
from pipeline.progress import Progress, silent

EXPLAINED, FEWEST = 128, 32
"""Number of images that the maps are measured on, and the minimum for an expensive network."""
# Multiply-accumulates of one forward pass of all images. Each image takes about a hundred.
_WORK = 16e9
MAX_HEAD_SIMILARITY = 0.5
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
    progress: Progress = silent,
) -> Faithfulness:
    """Measure the maps of each method, and random maps, on a sample of the validation images.

    Args:
        infer: the network as served.
        head: its head in torch, for the check with shuffled weights.
        validation: prepared images (N, H, W, C) and their labels.
        rule: image rule, which turns a scene into the network's input.
        methods: explanation methods; `contrast` is skipped, as it is a difference of two maps.
        images: largest number of images; see `images_to_explain`.
        progress: is told each step.

    """
    # In a random order, since some measures take the first of them.
    sample = np.random.default_rng(0).permutation(stratified_sample(validation.labels, images))
    shuffled = validation.take(sample)
    chosen, labels = shuffled.images[:], shuffled.labels
    classes = infer_output(infer, chosen, "probabilities").argmax(1)
    map_shape = infer_output(infer, chosen[:1], "cams").shape[2:]
    noise = list(np.random.default_rng(0).random((len(chosen), *map_shape), np.float32))
    shown: list[Shown] = ["random", *(it for it in methods if not METHODS[it].contrasts)]
    progress("playing the pointing game", 0, 0)
    pointed = [it for it in shown if it == "random" or is_pointed(it, len(chosen))]
    game = play_pointing_game(infer, chosen, labels, rule, pointed)
    measured, gains = {}, {}
    for done, method in enumerate(shown):
        progress("measuring the maps", done, len(shown))
        maps = noise if method == "random" else maps_of(infer, chosen, classes, method)
        deleted = deletion(infer, chosen, classes, maps)
        inserted = insertion(infer, chosen, classes, maps)
        gains[method] = inserted - deleted
        measured[method] = MethodFaithfulness(
            deletion=float(deleted.mean()),
            insertion=float(inserted.mean()),
            road=road(infer, chosen, classes, maps),
            pointing=None if game is None else game.hits.get(method),
        )
    gain = gains["cam"] - gains["random"]
    return Faithfulness(
        images=len(chosen),
        scenes=0 if game is None else game.scenes,
        chance=None if game is None else game.chance,
        methods=measured,
        gain=float(gain.mean()),
        gain_error=float(gain.std() / len(gain) ** 0.5),
        head_similarity=head_similarity(head, infer_output(infer, chosen, "features"), classes),
    )


def is_pointed(method: Method, images: int) -> bool:
    """Tell whether a method plays the pointing game with `images` scenes.

    Methods that evaluate masked images take a hundred times as long as the others. With few scenes
    their share of hits would say little: its standard error is 9 points for 32 scenes.
    """
    return images >= FEWEST or not METHODS[method].masks


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
