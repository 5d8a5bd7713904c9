"""Scores of how unlike the training images an image is, by what the network makes of it."""

import torch
from torch import Tensor, nn

from limelight.artifact.manifest import OodScoreName

# Of an image's distance from the centre, what must lie in the directions of least variance: below
# that it is rounding.
_LEAST = 1e-3


class OodScore(nn.Module):
    """Pooled features (N, C) and logits (N, K) -> scores (N,), higher for stranger images."""

    name: OodScoreName

    def forward(self, pooled: Tensor, logits: Tensor) -> Tensor:
        """Score images."""
        raise NotImplementedError


class Energy(OodScore):
    """The free energy at temperature 1 (Liu et al., 2020, eq. 4)."""

    name = "energy"

    def forward(self, pooled: Tensor, logits: Tensor) -> Tensor:
        """By the logits alone."""
        return -logits.logsumexp(1)


class MaxLogit(OodScore):
    """The largest logit, negated (Hendrycks et al., 2022)."""

    name = "max-logit"

    def forward(self, pooled: Tensor, logits: Tensor) -> Tensor:
        """By the logits alone."""
        return -logits.amax(1)


class VirtualLogit(OodScore):
    """Virtual-logit matching (ViM, Wang et al., 2022): the energy, and what the features add.

    Features of training images vary in some directions much more than in others. How far an image
    lies out in the half of the directions of least variance is a logit of one more class, "none of
    these", brought to the size of the others. The paper measures from the point of zero logits;
    here it is from the mean, which needs no inverse.

    Args:
        pooled: features of training images, (N, C).
        logits: of the same images, (N, K).

    Raises:
        ValueError: the images are too few, or too alike, to vary in every direction.

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
        if len(pooled) < 2 * pooled.shape[1] or distance < _LEAST * centred.norm(dim=1).mean():
            raise ValueError("the features do not vary in every direction")
        scale = logits.double().amax(1).mean() / distance
        self.register_buffer("centre", centre.float())
        self.register_buffer("directions", (directions * scale).float().contiguous())

    def forward(self, pooled: Tensor, logits: Tensor) -> Tensor:
        """By logits and features."""
        virtual = ((pooled - self.centre) @ self.directions).square().sum(1).sqrt()
        return virtual - logits.logsumexp(1)


def candidates(pooled: Tensor, logits: Tensor) -> tuple[OodScore, ...]:
    """Every score there is to choose from, made for a network by its training images.

    Without ViM where the images are too few for it, or too alike.
    """
    try:
        return Energy(), MaxLogit(), VirtualLogit(pooled, logits)
    except ValueError:
        return Energy(), MaxLogit()
