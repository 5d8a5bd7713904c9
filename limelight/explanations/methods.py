"""The explanation methods: one registry.

Adding a method is one entry here and a file with its function. What is told of methods elsewhere
(parameters, the OpenAPI document, manifests, the command line) is derived from it.
"""

from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from limelight.explanations.class_maps import class_map, contrast_map
from limelight.explanations.map_request import MapRequest
from limelight.explanations.masked_maps import occlusion, score_cam

Explain = Callable[[MapRequest], Coroutine[Any, Any, NDArray[np.float32]]]
"""From what is known of an image to the map of one class: (h, w)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ExplanationMethod:
    """How the map of a class comes about.

    Attributes:
        explain: makes the map.
        output: the network's output that it reads.
        summary: what it is, for the OpenAPI document.
        every_class: `output` has the maps of all classes, (K, h, w), so that all can be asked for.
        contrasts: it takes a second class, `against`.
        masks: it evaluates masked images, at most `evaluations`.
    """

    explain: Explain
    output: str
    summary: str
    every_class: bool = False
    contrasts: bool = False
    masks: bool = False


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
    ),
    "scorecam": ExplanationMethod(
        explain=score_cam,
        output="features",
        summary="Score-CAM: the network's channels, weighted by what each shows on its own",
        masks=True,
    ),
}
"""By the names that requests and manifests give them."""

ALWAYS = frozenset({"logits", "probabilities", "cams"})
"""Outputs that every artefact has."""


def supported(outputs: Mapping[str, object] | frozenset[str] | set[str]) -> tuple[str, ...]:
    """The methods that a network with these outputs can explain by, in the registry's order."""
    return tuple(name for name, method in METHODS.items() if method.output in outputs)
