"""Heads: compute logits from features, and maps that show which positions a logit comes from.

Unless `exact` is false, the mean of a class's map over positions plus the bias is the logit.
"""

from torch import Tensor, nn

from models.options import NetworkOptions, Pool


class Head(nn.Module):
    """Last part of a network, after its features."""

    exact: bool = True
    """True if a map's mean plus the bias is the logit."""

    @property
    def bias(self) -> Tensor:
        """Logits of features that are all zero: (K,)."""
        raise NotImplementedError

    def forward(self, features: Tensor) -> Tensor:
        """Classify: (N, C, h, w) -> logits (N, K)."""
        raise NotImplementedError

    def class_activation_maps(self, features: Tensor) -> Tensor:
        """Score every position for every class: (N, C, h, w) -> (N, K, h', w')."""
        raise NotImplementedError

    def derivatives(self, features: Tensor) -> Tensor:
        """Differentiate each logit by each feature: (N, C, h, w) -> (N, K, C, h, w), or 1 for N."""
        raise NotImplementedError


class ClassMapHead(Head):
    """Global pooling, dropout and one linear layer (Zhou et al., 2016).

    With average pooling the maps are exact. With max pooling they weigh the features of all
    positions alike, although only the largest of each channel contributed to the logit.
    """

    def __init__(
        self, channels: int, classes: int, *, pool: Pool = "average", dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.exact = pool == "average"
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(channels, classes)

    @classmethod
    def of(cls, options: NetworkOptions, channels: int, classes: int) -> "ClassMapHead":
        """Make the head with the pooling and the dropout of `options`."""
        return cls(channels, classes, pool=options.pool, dropout=options.dropout)

    @property
    def bias(self) -> Tensor:
        """Bias of the linear layer: (K,)."""
        return self.linear.bias

    def forward(self, features: Tensor) -> Tensor:
        """Pool and classify: (N, C, h, w) -> logits (N, K)."""
        pooled = features.mean((2, 3)) if self.exact else features.amax((2, 3))
        logits: Tensor = self.linear(self.dropout(pooled))
        return logits

    def class_activation_maps(self, features: Tensor) -> Tensor:
        """Weigh the features of every position: (N, C, h, w) -> (N, K, h, w)."""
        return nn.functional.conv2d(features, self.linear.weight[:, :, None, None])

    def derivatives(self, features: Tensor) -> Tensor:
        """Divide the weights among all positions, or assign them to the largest (max pooling)."""
        weights = self.linear.weight[None, :, :, None, None]
        if self.exact:
            height, width = features.shape[2:]
            return (weights / (height * width)).expand(-1, -1, -1, height, width)
        return weights * (features == features.amax((2, 3), keepdim=True))[:, None]


class ConvMapHead(Head):
    """3x3 convolution to one channel for each class, averaged; without the bias it is the map."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, classes, 3, padding=1)

    @property
    def bias(self) -> Tensor:
        """Bias of the convolution: (K,)."""
        return _bias_of(self.conv)

    def forward(self, features: Tensor) -> Tensor:
        """Convolve and average: (N, C, h, w) -> logits (N, K)."""
        scores: Tensor = self.conv(features)
        return scores.mean((2, 3))

    def class_activation_maps(self, features: Tensor) -> Tensor:
        """Convolve without the bias: (N, C, h, w) -> (N, K, h, w)."""
        return nn.functional.conv2d(features, self.conv.weight, padding=1)

    def derivatives(self, features: Tensor) -> Tensor:
        """Return the weights, which are the same for every image: (1, K, C, h, w)."""
        return _weights_of_positions(self.conv, features)


class ConvHead(Head):
    """Stride-2 3x3 convolution to one channel for each class, as in fastbook's chapter 13 (2020).

    Its output is averaged, which changes nothing if it is 1x1 as in the lesson.
    """

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, classes, 3, stride=2, padding=1)

    @property
    def bias(self) -> Tensor:
        """Bias of the convolution: (K,)."""
        return _bias_of(self.conv)

    def forward(self, features: Tensor) -> Tensor:
        """Convolve and average: (N, C, h, w) -> logits (N, K)."""
        scores: Tensor = self.conv(features)
        return scores.mean((2, 3))

    def class_activation_maps(self, features: Tensor) -> Tensor:
        """Compute h w times the contribution of each position: (N, C, h, w) -> (N, K, h, w)."""
        height, width = features.shape[2:]
        weights = _weights_of_positions(self.conv, features) * (height * width)
        return (features[:, None] * weights).sum(2)

    def derivatives(self, features: Tensor) -> Tensor:
        """Return the weights, which are the same for every image: (1, K, C, h, w)."""
        return _weights_of_positions(self.conv, features)


def _weights_of_positions(convolution: nn.Conv2d, features: Tensor) -> Tensor:
    """Compute the weight of each feature in a logit: (1, K, C, h, w).

    The mean of a convolution's outputs is linear in the features. Its derivative is the transposed
    convolution of a constant: the share of each output in the mean.
    """
    kernel, stride = convolution.weight, convolution.stride[0]
    height, width = features.shape[2:]
    rows, columns = (height - 1) // stride + 1, (width - 1) // stride + 1
    shares = kernel.new_full((1, 1, rows, columns), 1 / (rows * columns))
    weights = nn.functional.conv_transpose2d(
        shares,
        kernel.flatten(0, 1)[None],
        stride=stride,
        padding=1,
        output_padding=((height - 1) % stride, (width - 1) % stride),
    )
    return weights.reshape(1, *kernel.shape[:2], height, width)


def _bias_of(convolution: nn.Conv2d) -> Tensor:
    if convolution.bias is None:
        raise AttributeError("the head's convolution has no bias")
    return convolution.bias
