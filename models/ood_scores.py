"""Out-of-distribution (OOD) scores, computed from a network's features and logits."""

import contextlib
from collections.abc import Iterator
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from limelight.artifact.field_types import OodScoreName

# Smallest share of the distance from the centre along the directions of least variance: a lower
# share is rounding error.
_LEAST = 1e-3
NEIGHBOURS = 5
"""Neighbour that counts, and number of training images of a class if there are many classes."""
KEPT, MOST_KEPT = 300, 1000
"""Training images whose features are kept, and their number if there are many classes."""


class OodScore(nn.Module):
    """OOD score: pooled features (N, C) and logits (N, K) -> scores (N,), higher if OOD."""

    name: OodScoreName
    description: str
    keeps_features: ClassVar[bool] = False
    """True if the score contains features of training images."""

    def forward(self, pooled: Tensor, logits: Tensor) -> Tensor:
        """Score images."""
        raise NotImplementedError


class Energy(OodScore):
    """Free energy at temperature 1 (Liu et al., 2020, eq. 4)."""

    name = "energy"
    description = "free energy of the logits"

    def forward(self, pooled: Tensor, logits: Tensor) -> Tensor:
        """Score images by their logits."""
        return -logits.logsumexp(1)


class MaxLogit(OodScore):
    """Largest logit, negated (Hendrycks et al., 2022)."""

    name = "max-logit"
    description = "largest logit, negated"

    def forward(self, pooled: Tensor, logits: Tensor) -> Tensor:
        """Score images by their logits."""
        return -logits.amax(1)


class VirtualLogit(OodScore):
    """Virtual-logit matching (ViM, Wang et al., 2022): the energy and a logit from the features.

    Features of training images vary much more in some directions than in others. An image's
    distance from the centre along the half of the directions with the least variance, scaled to
    the size of the logits, is the logit of one more class, "none of these". The paper measures the
    distance from the point of zero logits. Here it is measured from the mean, which needs no
    inverse.

    Args:
        pooled: pooled features of training images, (N, C).
        logits: logits of the same images, (N, K).

    Raises:
        ValueError: there are too few images, or they do not vary in every direction.

    """

    name = "vim"
    description = (
        "free energy of the logits and a virtual logit from the features (ViM, Wang et al., 2022)"
    )
    centre: Tensor
    directions: Tensor

    def __init__(self, pooled: Tensor, logits: Tensor) -> None:
        super().__init__()
        precise = pooled.double()
        centre = precise.mean(0)
        centred = precise - centre
        _, directions = torch.linalg.eigh(centred.T @ centred)  # least variance first
        directions = directions[:, : max(1, directions.shape[1] // 2)]
        distance = (centred @ directions).norm(dim=1).mean()
        if len(pooled) < 2 * pooled.shape[1] or distance <= _LEAST * centred.norm(dim=1).mean():
            raise ValueError("the features do not vary in every direction")
        scale = logits.double().amax(1).mean() / distance
        self.register_buffer("centre", centre.float())
        self.register_buffer("directions", (directions * scale).float().contiguous())

    def forward(self, pooled: Tensor, logits: Tensor) -> Tensor:
        """Score images by their logits and features."""
        virtual = ((pooled - self.centre) @ self.directions).square().sum(1).sqrt()
        return virtual - logits.logsumexp(1)


class NearestNeighbour(OodScore):
    """Cosine distance to the fifth nearest training image (Sun et al., 2022), from the features.

    It needs far fewer training images than ViM. One unusual training image changes the distance to
    the nearest image, but not to the fifth; and few classes have fewer images.

    Args:
        pooled: pooled features of training images, (N, C). Some are kept, at equal intervals.
        logits: logits of the same images, (N, K).
        kept: number of images that are kept, if there are not many classes.
        neighbour: number of the neighbour that counts.

    Raises:
        ValueError: there are too few images.

    """

    name: OodScoreName = "knn"
    description = (
        "cosine distance of the features to the fifth nearest training image (Sun et al., 2022)"
    )
    keeps_features = True
    directions: Tensor

    def __init__(
        self, pooled: Tensor, logits: Tensor, *, kept: int = KEPT, neighbour: int = NEIGHBOURS
    ) -> None:
        super().__init__()
        if len(pooled) < neighbour:
            raise ValueError(f"there are fewer than {neighbour} images")
        self._neighbour = neighbour
        count = min(len(pooled), max(kept, min(neighbour * logits.shape[1], MOST_KEPT)))
        chosen = torch.linspace(0, len(pooled) - 1, count).round().long()
        self.register_buffer("directions", normalize(pooled[chosen]).T.contiguous())

    def forward(self, pooled: Tensor, logits: Tensor) -> Tensor:
        """Score images by their features."""
        return 1 - self._nearest(normalize(pooled))

    def _nearest(self, pooled: Tensor) -> Tensor:
        """Project features on those of the training images, and return the one that counts."""
        return (pooled @ self.directions).topk(self._neighbour, 1).values[:, -1]


class NearestProjection(NearestNeighbour):
    """Cosine similarity to the fifth nearest training image, times the norm of the features.

    It is negated. In many networks OOD images have features of a low norm (Park et al., 2023).
    """

    name = "knn-norm"
    description = "projection of the features on those of the fifth nearest training image, negated"

    def forward(self, pooled: Tensor, logits: Tensor) -> Tensor:
        """Score images by their features."""
        return -self._nearest(pooled)


FITTED = (VirtualLogit, NearestNeighbour, NearestProjection)
"""Scores that are made from features and logits of training images."""
SCORES: dict[OodScoreName, type[OodScore]] = {
    score.name: score for score in (Energy, MaxLogit, *FITTED)
}
"""Every score that an export chooses from."""


def candidates(pooled: Tensor, logits: Tensor) -> Iterator[OodScore]:
    """Yield every score to choose from, made from features and logits of training images.

    Those that need more images, or images that differ more, are left out.
    """
    yield from (Energy(), MaxLogit())
    for score in FITTED:
        with contextlib.suppress(ValueError):
            yield score(pooled, logits)
