"""Out-of-distribution (OOD) scores, computed from a network's features and logits."""

import torch
from torch import Tensor, nn

from limelight.artifact.manifest import OodScoreName

# Smallest share of the distance from the centre along the directions of least variance: a lower
# share is rounding error.
_LEAST = 1e-3


class OodScore(nn.Module):
    """OOD score: pooled features (N, C) and logits (N, K) -> scores (N,), higher if OOD."""

    name: OodScoreName

    def forward(self, pooled: Tensor, logits: Tensor) -> Tensor:
        """Score images."""
        raise NotImplementedError


class Energy(OodScore):
    """Free energy at temperature 1 (Liu et al., 2020, eq. 4)."""

    name = "energy"

    def forward(self, pooled: Tensor, logits: Tensor) -> Tensor:
        """Score images by their logits."""
        return -logits.logsumexp(1)


class MaxLogit(OodScore):
    """Largest logit, negated (Hendrycks et al., 2022)."""

    name = "max-logit"

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


def candidates(pooled: Tensor, logits: Tensor) -> tuple[OodScore, ...]:
    """Return every score to choose from, fitted to features and logits of training images.

    ViM is left out if there are too few images for it, or if they are too similar.
    """
    try:
        return Energy(), MaxLogit(), VirtualLogit(pooled, logits)
    except ValueError:
        return Energy(), MaxLogit()
