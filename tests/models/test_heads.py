"""Maps of the heads, compared with autograd at each position."""

import pytest
import torch
from torch import Tensor, nn

from models.heads import ClassMapHead, ConvHead, ConvMapHead, Head


def contributions(head: Head, features: Tensor) -> Tensor:
    """Multiply features by gradients and sum over channels: each position's part of each logit."""
    features = features.clone().requires_grad_()
    logits = head(features)
    gradients = [
        torch.autograd.grad(logits[:, label].sum(), features, retain_graph=True)[0]
        for label in range(logits.shape[1])
    ]
    return torch.stack([(features * gradient).sum(1) for gradient in gradients], 1).detach()


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (3, 4), (7, 6)])
@pytest.mark.parametrize("kind", [ClassMapHead, ConvHead])
def test_map_is_the_contribution_of_each_position_to_the_logit(
    kind: type[ClassMapHead] | type[ConvHead], size: tuple[int, int]
) -> None:
    head, features = kind(5, 3), torch.randn(2, 5, *size)
    maps = head.class_activation_maps(features)
    torch.testing.assert_close(maps, contributions(head, features) * size[0] * size[1])


def test_strided_head_equals_the_lesson_convolution_on_2x2_features() -> None:
    head, features = ConvHead(5, 3), torch.randn(2, 5, 2, 2)
    torch.testing.assert_close(head(features), nn.Flatten()(head.conv(features)))


def test_map_of_the_convolutional_head_is_its_output_without_bias() -> None:
    head, features = ConvMapHead(5, 3), torch.randn(2, 5, 4, 4)
    scores = head.conv(features)
    maps = head.class_activation_maps(features)
    torch.testing.assert_close(maps + head.bias[:, None, None], scores)
    torch.testing.assert_close(head(features), nn.AdaptiveAvgPool2d(1)(scores).flatten(1))


def test_feature_changes_the_map_only_at_its_own_position() -> None:
    head, features = ClassMapHead(6, 4), torch.rand(1, 6, 8, 8)
    changed = features.clone()
    changed[0, :, 2, 5] += 1
    difference = head.class_activation_maps(changed) - head.class_activation_maps(features)
    positions = difference.abs().amax((0, 1)).nonzero().tolist()
    assert positions == [[2, 5]]


def test_max_pooling_head_is_marked_as_approximate() -> None:
    head, features = ClassMapHead(5, 3, pool="max"), torch.randn(2, 5, 4, 4)
    pooled = nn.AdaptiveMaxPool2d(1)(features).flatten(1)
    torch.testing.assert_close(head(features), head.linear(pooled))
    assert not head.exact
    assert ClassMapHead(5, 3).exact


def test_dropout_is_active_only_in_training() -> None:
    torch.manual_seed(0)
    head, features = ClassMapHead(400, 1, dropout=0.5), torch.ones(1, 400, 2, 2)
    nn.init.ones_(head.linear.weight)
    nn.init.zeros_(head.linear.bias)
    assert head.eval()(features).item() == pytest.approx(400)
    # Half of the features, each doubled: a standard deviation of 20.
    trained = head.train()(features).item()
    assert trained != pytest.approx(400)
    assert abs(trained - 400) < 100
