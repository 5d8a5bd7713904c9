"""Maps from masked images, compared with numpy implementations of their definitions."""

import tracemalloc

import numpy as np
import pytest

from limelight.explanations.masking import mean_colour
from limelight.explanations.occlusion import occlude, occlusion_map
from limelight.explanations.scorecam import score_cam, strongest_channels, unveil


def test_every_occluded_image_hides_exactly_one_square(rng: np.random.Generator) -> None:
    image = rng.integers(0, 256, (32, 24, 3), np.uint8)
    hidden = occlude(image)
    assert hidden.shape == (49, 32, 24, 3)
    colour = np.rint(image.mean((0, 1)))
    for place, masked in enumerate(hidden):
        row, column = divmod(place, 7)
        inside = np.zeros((32, 24), bool)
        inside[row * 4 : row * 4 + 8, column * 3 : column * 3 + 6] = True
        np.testing.assert_array_equal(masked[~inside], image[~inside])
        assert (masked[inside] == colour).all()


@pytest.mark.parametrize(("evaluations", "squares"), [(4, 4), (48, 36), (49, 49)])
def test_grid_is_square_and_within_the_evaluations(evaluations: int, squares: int) -> None:
    assert len(occlude(np.zeros((28, 28, 1), np.uint8), evaluations)) == squares


def test_fewer_than_four_evaluations_are_rejected() -> None:
    with pytest.raises(ValueError, match="4 evaluations"):
        occlude(np.zeros((28, 28, 1), np.uint8), 3)


def test_cell_has_the_mean_of_the_squares_that_cover_it() -> None:
    found = occlusion_map(10.0, [9, 8, 7, 6])
    np.testing.assert_allclose(found, [[1, 1.5, 2], [2, 2.5, 3], [3, 3.5, 4]])


def test_occlusion_map_peaks_at_the_only_relevant_pixels(rng: np.random.Generator) -> None:
    image = rng.integers(100, 120, (32, 32, 3), np.uint8)
    image[20:24, 8:12] = 255

    def logit(seen: np.ndarray) -> float:
        return float(seen[20:24, 8:12].mean())

    found = occlusion_map(logit(image), [logit(masked) for masked in occlude(image)])
    assert divmod(int(found.argmax()), 8) == (5, 2)
    assert found[0, 7] == 0


def test_image_is_visible_where_a_channel_is_active(rng: np.random.Generator) -> None:
    image = rng.integers(0, 256, (8, 8, 3), np.uint8)
    features = np.zeros((1, 2, 2), np.float32)
    features[0, 0, 0] = 5
    (seen,) = unveil(image, features)
    # Beyond the outermost centres of cells the mask is constant: 1 or 0.
    np.testing.assert_array_equal(seen[:2, :2], image[:2, :2])
    np.testing.assert_allclose(
        seen[6:, 6:], np.broadcast_to(mean_colour(image), (2, 2, 3)), atol=0.5
    )


def test_masking_takes_little_more_memory_than_its_result(rng: np.random.Generator) -> None:
    image = rng.integers(0, 256, (96, 96, 3), np.uint8)
    features = rng.random((64, 7, 7), np.float32)
    tracemalloc.start()
    seen = unveil(image, features)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * seen.nbytes
    # One channel at a time gives the same.
    alone = np.concatenate([unveil(image, features[at : at + 1]) for at in range(64)])
    np.testing.assert_array_equal(seen, alone)


def test_strongest_channels_omits_constant_ones_and_sorts_by_variance() -> None:
    features = np.array([[[0, 1]], [[3, 3]], [[0, 9]], [[0, 4]]], np.float32)
    assert strongest_channels(features, 10).tolist() == [2, 3, 0]
    assert strongest_channels(features, 2).tolist() == [2, 3]


def test_score_cam_weights_channels_by_the_softmax_of_their_logits() -> None:
    features = np.array([[[1, 0]], [[0, 2]], [[-1, -1]]], np.float32)
    powers = np.exp([1.0, 2.0, 3.0])
    weights = powers / powers.sum()
    expected = np.maximum([[weights[0] - weights[2], 2 * weights[1] - weights[2]]], 0)
    np.testing.assert_allclose(score_cam(features, [1, 2, 3]), expected, atol=1e-6)
