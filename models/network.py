"""A network split at the seam that a class activation map needs: features, then a head."""

from torch import Tensor, nn

from models.heads import Head


class ClassMapNetwork(nn.Module):
    """A network that is `features` followed by a head that can say where a logit comes from.

    `early` is the number of modules of `features` in the first layer group; by default, half.
    """

    def __init__(self, features: nn.Sequential, head: Head, *, early: int | None = None) -> None:
        super().__init__()
        self.features = features
        self.head = head
        self._early = len(features) // 2 if early is None else early

    def forward(self, images: Tensor) -> Tensor:
        """Classify normalised images: (N, C, H, W) -> logits (N, K)."""
        logits: Tensor = self.head(self.features(images))
        return logits

    def layer_groups(self) -> list[nn.Module]:
        """Early features, late features and the head, for learning rates of their own."""
        return [self.features[: self._early], self.features[self._early :], self.head]
