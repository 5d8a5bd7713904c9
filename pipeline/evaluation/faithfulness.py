"""Faithfulness of maps: how well they show what the network depends on, next to random maps."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from limelight.artifact.manifest import Faithfulness, ImageRule, Method, MethodFaithfulness
from models import Head
from pipeline.data.splits import Split
from pipeline.errors import GateError
from pipeline.evaluation.deletion_insertion import deletion, insertion
from pipeline.evaluation.head_randomization import head_similarity
from pipeline.evaluation.pointing_game import play_pointing_game
from pipeline.evaluation.road import road
from pipeline.evaluation.saliency import Infer, Maps, infer_output, maps_of

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
