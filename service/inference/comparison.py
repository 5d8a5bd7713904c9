"""Comparison of the outputs of two versions of a model for the same images."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from limelight.artifact.manifest import Manifest
from service.inference.batch_runner import Outputs

COMPARED = ("probabilities", "cams")
"""Outputs that are compared."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Comparison of two answers for one image.

    Attributes:
        agrees: True if both have the same most probable class.
        difference: mean absolute difference of the probabilities; None if the classes differ.
        correlation: rank correlation of the maps of the champion's class; None if the shapes
            differ, a map is constant, or the challenger lacks the class.
    """

    agrees: bool
    difference: float | None
    correlation: float | None


class Comparer:
    """Comparer of a challenger with the champion, by the classes in their manifests.

    Attributes:
        gaps: what cannot be compared, and why.
    """

    def __init__(self, champion: Manifest, challenger: Manifest) -> None:
        self._classes, self._others = champion.classes, challenger.classes
        self._same_classes = self._classes == self._others
        self._indices = {label: index for index, label in enumerate(self._others)}
        shapes = [_map_shape(each) for each in (champion, challenger)]
        self._same_maps = shapes[0] == shapes[1]
        self.gaps: list[str] = []
        if not self._same_classes:
            self.gaps.append("probabilities: the classes differ")
        if not self._same_maps:
            self.gaps.append(f"maps: {_shown(shapes[0])} and {_shown(shapes[1])} positions")

    def compare(self, champion: Outputs, challenger: Outputs) -> list[Comparison]:
        """Compare the outputs `COMPARED` of N images, (N, ...)."""
        return [
            self._compare(
                {name: champion[name][image] for name in COMPARED},
                {name: challenger[name][image] for name in COMPARED},
            )
            for image in range(len(champion["probabilities"]))
        ]

    def _compare(self, champion: Outputs, challenger: Outputs) -> Comparison:
        ours, theirs = champion["probabilities"], challenger["probabilities"]
        index = int(ours.argmax())
        label = self._classes[index]
        difference = float(np.abs(ours - theirs).mean()) if self._same_classes else None
        correlation, other = None, self._indices.get(label)
        if self._same_maps and other is not None:
            correlation = rank_correlation(champion["cams"][index], challenger["cams"][other])
        return Comparison(self._others[int(theirs.argmax())] == label, difference, correlation)


def rank_correlation(one: NDArray[np.float32], other: NDArray[np.float32]) -> float | None:
    """Return Spearman's rank correlation of two arrays, -1 to 1; None if one is constant."""
    ranks, others = _centred_ranks(one), _centred_ranks(other)
    scale = float(np.sqrt((ranks**2).sum() * (others**2).sum()))
    return float((ranks * others).sum()) / scale if scale else None


def _centred_ranks(values: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the ranks minus their mean; equal values share the mean of their ranks."""
    _, inverse, counts = np.unique(values.ravel(), return_inverse=True, return_counts=True)
    ranks = counts.cumsum() - (counts - 1) / 2
    centred: NDArray[np.float64] = ranks[inverse] - (values.size + 1) / 2
    return centred


def _map_shape(manifest: Manifest) -> tuple[int | str, ...]:
    return next(tuple(each.shape[2:]) for each in manifest.outputs if each.name == "cams")


def _shown(shape: tuple[int | str, ...]) -> str:
    return "x".join(map(str, shape))
