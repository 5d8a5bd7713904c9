"""Registry of the explanation methods.

To add a method, add an entry here and a file with its function. Parameters, the OpenAPI document,
manifests and the command line are derived from the registry.
"""

from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from limelight.explanations.cam import class_map
from limelight.explanations.contrast import contrast_map
from limelight.explanations.map_request import MapRequest
from limelight.explanations.occlusion import OCCLUSION_EVALUATIONS, occlusion
from limelight.explanations.scorecam import scorecam

Explain = Callable[[MapRequest], Coroutine[Any, Any, NDArray[np.float32]]]
"""Function that computes the map of one class, (h, w)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ExplanationMethod:
    """Explanation method: computes the map of a class.

    Attributes:
        explain: function that computes the map.
        output: output of the network that the method reads.
        summary: description for the OpenAPI document.
        every_class: `output` has the maps of all classes, (K, h, w), so `target=all` is supported.
        contrasts: the method takes a second class, `against`.
        masks: the method evaluates masked images, at most `evaluations`.
        most: number of masked images that is never exceeded; None: there is only the limit.
    """

    explain: Explain
    output: str
    summary: str
    every_class: bool = False
    contrasts: bool = False
    masks: bool = False
    most: int | None = None


METHODS: dict[str, ExplanationMethod] = {
    "cam": ExplanationMethod(
        explain=class_map("cams"),
        output="cams",
        summary="the class activation map, out of the same forward pass",
        every_class=True,
    ),
    "contrast": ExplanationMethod(
        explain=contrast_map,
        output="cams",
        summary="the map of `target` minus that of `against`",
        contrasts=True,
    ),
    "layercam": ExplanationMethod(
        explain=class_map("layercams"),
        output="layercams",
        summary="LayerCAM of an earlier stage, with more cells",
        every_class=True,
    ),
    "occlusion": ExplanationMethod(
        explain=occlusion,
        output="logits",
        summary="how much the logit falls when a part of the image is hidden",
        masks=True,
        most=OCCLUSION_EVALUATIONS,
    ),
    "scorecam": ExplanationMethod(
        explain=scorecam,
        output="features",
        summary="Score-CAM: the network's channels, weighted by what each shows on its own",
        masks=True,
    ),
}
"""Methods by their name in requests and manifests."""

ALWAYS = frozenset({"logits", "probabilities", "cams"})
"""Outputs that every artefact has, whatever its methods."""


def supported(outputs: Mapping[str, object] | frozenset[str] | set[str]) -> tuple[str, ...]:
    """Return the methods that a network with these outputs supports, in the registry's order."""
    return tuple(name for name, method in METHODS.items() if method.output in outputs)
