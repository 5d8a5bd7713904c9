"""A network split where class activation maps need it: features, then a head."""

from collections.abc import Mapping

from torch import Tensor, nn

from models.heads import Head


class ClassMapNetwork(nn.Module):
    """`features`, followed by a head that can show which positions a logit comes from.

    Args:
        features: (N, C, H, W) -> (N, C', h, w).
        head: (N, C', h, w) -> logits (N, K).
        early: number of modules of `features` in the first layer group; by default, half.
        published_names: names of the features' weights in this network, by their names in the
            library that they come from.

    """

    def __init__(
        self,
        features: nn.Sequential,
        head: Head,
        *,
        early: int | None = None,
        published_names: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        self.features = features
        self.head = head
        self.published_names = dict(published_names or {})
        self._early = len(features) // 2 if early is None else early

    def forward(self, images: Tensor) -> Tensor:
        """Classify normalised images: (N, C, H, W) -> logits (N, K)."""
        logits: Tensor = self.head(self.features(images))
        return logits

    def layer_groups(self) -> list[nn.Module]:
        """Split into early features, late features and head, for separate learning rates."""
        return [self.features[: self._early], self.features[self._early :], self.head]
