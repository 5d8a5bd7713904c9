"""Pointing game: the share of maps whose peak is on the object (Zhang et al., 2018, 4.2)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from limelight.artifact.field_types import Method
from limelight.explanations.bounding_box import Box
from limelight.imaging.image_rule import ImageRule
from limelight.imaging.preprocessing import View, picture_of, prepare
from pipeline.data.synthetic.scenes import make_scene
from pipeline.evaluation.graph_inference import Images, Infer
from pipeline.evaluation.maps.served_maps import Maps, maps_of

SIZE, SIDE = 256, 128
"""Side of a scene, and of the object in it, in pixels."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PointingGame:
    """Share of scenes in which each method's map peaks on the object."""

    scenes: int
    chance: float
    """Share of a scene that the object covers."""
    hits: dict[Method | Literal["random"], float]


def play_pointing_game(
    infer: Infer,
    images: Images,
    labels: NDArray[np.int64],
    rule: ImageRule,
    methods: Sequence[Method | Literal["random"]],
) -> PointingGame | None:
    """Paste each image (N, H, W, C) into a scene, and look for the peak of its label's map.

    None if the image rule crops to the object itself, or the images are not square: then the game
    is not defined.
    """
    if rule.fit != "crop" or rule.height != rule.width:
        return None
    rng = np.random.default_rng(0)
    scenes = [make_scene(image, rng, side=SIDE, size=SIZE) for image in images]
    prepared = [prepare(picture_of(scene.image_hwc), rule) for scene in scenes]
    pixels, views = np.stack([it[0] for it in prepared]), [it[1] for it in prepared]
    hits: dict[Method | Literal["random"], float] = {}
    for method in methods:
        if method == "random":
            shape = maps_of(infer, pixels[:1], labels[:1], "cam")[0].shape
            maps = list(rng.random((len(pixels), *shape), np.float32))
        else:
            maps = maps_of(infer, pixels, labels, method)
        hit = [
            is_hit(map_hw, view, scene.box)
            for map_hw, view, scene in zip(maps, views, scenes, strict=True)
        ]
        hits[method] = float(np.mean(hit))
    return PointingGame(scenes=len(scenes), chance=(SIDE / SIZE) ** 2, hits=hits)


def is_hit(map_hw: Maps, view: View, box: Box) -> bool:
    """Return True if the centre of the map's highest cell lies in the box, in upload pixels."""
    rows, columns = map_hw.shape
    row, column = divmod(int(map_hw.argmax()), columns)
    x = view.left + (column + 0.5) * view.width / columns
    y = view.top + (row + 0.5) * view.height / rows
    return bool(box.left <= x < box.right and box.top <= y < box.bottom)
