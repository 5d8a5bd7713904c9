"""Faithfulness of maps, for a network that depends on one known quarter of the image."""

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from limelight.artifact.measurements import Faithfulness
from limelight.explanations import masking, scorecam
from limelight.explanations.bounding_box import Box
from limelight.imaging.preprocessing import View
from models.heads import ClassMapHead
from pipeline.data.registry import digit_rule, photo_rule
from pipeline.data.splits import Split
from pipeline.errors import GateError
from pipeline.evaluation.maps.deletion_insertion import deletion, insertion
from pipeline.evaluation.maps.faithfulness import (
    check_faithfulness,
    images_to_explain,
    is_pointed,
    measure_faithfulness,
)
from pipeline.evaluation.maps.head_randomization import head_similarity
from pipeline.evaluation.maps.pointing_game import is_hit, play_pointing_game
from pipeline.evaluation.maps.road import road
from pipeline.evaluation.maps.served_maps import enlarged, maps_of, ranks_of
from pipeline.progress import Progress, silent

SIDE, CELLS = 16, 4
PATTERNS = np.random.default_rng(5).normal(size=(32, CELLS, CELLS))
Images = NDArray[np.uint8]
Maps = NDArray[np.float32]


class Corner:
    """Network whose class 1 has the brightness of the upper left quarter as its probability.

    The map shows that quarter, or with `honest` false the opposite one.
    """

    def __init__(self, *, honest: bool = True) -> None:
        self.honest = honest

    def __call__(self, images: Images, outputs: Sequence[str]) -> Mapping[str, Maps]:
        half = images.shape[1] // 2
        bright = images[:, :half, :half].mean((1, 2, 3), dtype=np.float64) / 255
        probabilities = np.stack([1 - bright, bright], 1).astype(np.float32)
        cells = images.mean(3).reshape(len(images), CELLS, SIDE // CELLS, CELLS, -1).mean((2, 4))
        shown = np.zeros((CELLS, CELLS))
        quarter = np.s_[: CELLS // 2, : CELLS // 2]
        shown[quarter if self.honest else np.s_[CELLS // 2 :, CELLS // 2 :]] = 1
        cams = np.stack([-cells * shown, (cells + 1) * shown], 1).astype(np.float32)
        computed = {
            "probabilities": probabilities,
            "logits": np.log(probabilities + 1e-9),
            "cams": cams,
            "layercams": np.abs(cams),
            "features": cells[:, None] * PATTERNS,
        }
        return {name: computed[name].astype(np.float32) for name in outputs}


def bright_images(count: int = 24) -> Images:
    """Noise, much brighter in the upper left quarter."""
    images = np.random.default_rng(0).integers(0, 60, (count, SIDE, SIDE, 3), np.uint8)
    images[:, : SIDE // 2, : SIDE // 2] += 180
    return images


ONES = np.ones(24, np.int64)


def maps(infer: Corner, method: str) -> list[Maps]:
    return maps_of(infer, bright_images(), ONES, method)


def noise_maps() -> list[Maps]:
    return list(np.random.default_rng(1).random((24, CELLS, CELLS), np.float32))


@pytest.mark.parametrize("method", ["cam", "layercam", "occlusion"])
def test_faithful_map_scores_better_than_random_map(method: str) -> None:
    infer, images = Corner(), bright_images()
    shown, noise = maps(infer, method), noise_maps()
    assert (deletion(infer, images, ONES, shown) < deletion(infer, images, ONES, noise)).all()
    restored = (insertion(infer, images, ONES, it).mean() for it in (shown, noise))
    assert next(restored) > next(restored) + 0.02
    best, chance = road(infer, images, ONES, shown), road(infer, images, ONES, noise)
    assert best is not None
    assert chance is not None
    assert best > chance + 0.05


def test_deletion_equals_hand_computed_area() -> None:
    # One of four pixels is bright: the image's mean is a quarter of it.
    image = np.zeros((1, 2, 2, 1), np.uint8)
    image[0, 0, 0] = 200

    def infer(images: Images, outputs: Sequence[str]) -> Mapping[str, Maps]:
        first = images[:, 0, 0, 0].astype(np.float32) / 200
        return dict.fromkeys(outputs, np.stack([1 - first, first], 1))

    right, wrong = (np.array(rows, np.float32) for rows in ([[1, 0], [0, 0]], [[0, 0], [0, 1]]))
    one = np.array([1])
    # The bright pixel is removed at the first step of 16, or at step 5 as the second of four.
    assert deletion(infer, image, one, [right])[0] == pytest.approx((0.625 + 15 * 0.25) / 16)
    late = deletion(infer, image, one, [wrong])[0]
    assert late == pytest.approx((4 * 1 + 0.625 + 11 * 0.25) / 16)


def test_insertion_ends_with_the_image_and_deletion_with_its_mean_colour() -> None:
    seen: list[Images] = []

    def infer(images: Images, outputs: Sequence[str]) -> Mapping[str, Maps]:
        seen.append(images)
        return dict.fromkeys(outputs, np.full((len(images), 2), 0.5, np.float32))

    images = bright_images(1)
    shown = [np.arange(16, dtype=np.float32).reshape(4, 4)]
    assert deletion(infer, images, ONES[:1], shown) == pytest.approx(0.5)
    np.testing.assert_array_equal(seen[0], images)
    colour = np.rint(masking.mean_colour(images[0]))
    np.testing.assert_array_equal(seen[-1], np.broadcast_to(colour, images.shape))
    insertion(infer, images, ONES[:1], shown)
    np.testing.assert_array_equal(seen[-1], images)


@pytest.mark.parametrize(
    ("millions", "images"), [(8, 128), (125, 128), (126, 126), (467, 34), (3600, 32)]
)
def test_expensive_network_is_measured_on_fewer_images(
    millions: int, images: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.evaluation.maps.faithfulness.EXPLAINED", 128)
    assert images_to_explain(millions * 10**6) == images


def measured(infer: Corner, progress: Progress = silent) -> Faithfulness:
    return measure_faithfulness(
        infer,
        ClassMapHead(32, 2),
        Split(bright_images(), ONES),
        rule=photo_rule(SIDE),
        methods=["cam", "contrast", "occlusion"],
        images=20,
        progress=progress,
    )


def test_images_of_every_class_are_explained() -> None:
    """A user's own images are sorted by class."""
    seen: list[Images] = []

    class Recording(Corner):
        def __call__(self, images: Images, outputs: Sequence[str]) -> Mapping[str, Maps]:
            seen.append(images)
            return super().__call__(images, outputs)

    images = bright_images(60)
    images[:30] //= 2
    measure_faithfulness(
        Recording(),
        ClassMapHead(32, 2),
        Split(images, np.repeat([0, 1], 30)),
        rule=photo_rule(SIDE),
        methods=["cam"],
        images=20,
    )
    explained = next(each for each in seen if len(each) == 20)
    dark = {image.tobytes() for image in images[:30]}
    places = [image.tobytes() in dark for image in explained]
    assert sum(places) == 10
    assert 2 <= sum(places[:10]) <= 8


def test_methods_that_mask_images_play_the_pointing_game_only_with_many_scenes() -> None:
    assert [is_pointed(method, 31) for method in ("cam", "layercam", "occlusion", "scorecam")] == [
        True,
        True,
        False,
        False,
    ]
    assert is_pointed("scorecam", 32)
    few = measured(Corner()).methods
    assert few["cam"].pointing is not None
    assert few["random"].pointing is not None
    assert few["occlusion"].pointing is None


def test_progress_counts_the_methods() -> None:
    told: list[tuple[str, int, int]] = []
    measured(Corner(), lambda *step: told.append(step))
    assert told[0] == ("playing the pointing game", 0, 0)
    assert told[1:] == [("measuring the maps", done, 3) for done in range(3)]


def test_gate_accepts_a_faithful_map_and_rejects_a_misleading_one() -> None:
    honest, misleading = measured(Corner()), measured(Corner(honest=False))
    assert honest.images == 20
    assert honest.methods.keys() == {"random", "cam", "occlusion"}
    check_faithfulness("model", honest)
    assert honest.gain > 10 * honest.gain_error
    with pytest.raises(GateError, match=r"differs by -0\.\d+ .* from that of a random map"):
        check_faithfulness("model", misleading)
    assert honest.methods["random"] == misleading.methods["random"]


def test_gate_rejects_a_map_that_does_not_depend_on_the_head() -> None:
    independent = measured(Corner()).model_copy(update={"head_similarity": 0.7})
    with pytest.raises(GateError, match=r"correlate by 0\.70"):
        check_faithfulness("model", independent)
    undefined = independent.model_copy(update={"head_similarity": float("nan")})
    with pytest.raises(GateError, match="correlate by nan"):
        check_faithfulness("model", undefined)


def test_maps_of_shuffled_heads_are_uncorrelated_and_the_head_is_unchanged() -> None:
    torch.manual_seed(0)
    head, labels = ClassMapHead(64, 4), np.arange(40) % 4
    features = np.random.default_rng(0).normal(size=(40, 64, 6, 6)).astype(np.float32)
    before = head.linear.weight.clone()
    assert abs(head_similarity(head, features, labels)) < 0.2
    torch.testing.assert_close(head.linear.weight, before)
    # Equal weights stay the same when shuffled.
    torch.nn.init.constant_(head.linear.weight, 0.3)
    assert head_similarity(head, features, labels) == pytest.approx(1)


def test_constant_map_has_correlation_0() -> None:
    head = ClassMapHead(3, 2)
    assert head_similarity(head, np.ones((2, 3, 4, 4), np.float32), np.array([0, 1])) == 0


@pytest.mark.parametrize(
    ("cell", "hit"), [((0, 0), True), ((1, 1), True), ((0, 2), False), ((3, 3), False)]
)
def test_hit_requires_the_centre_of_the_peak_cell_in_the_box(
    cell: tuple[int, int], hit: bool
) -> None:
    map_hw = np.zeros((4, 4), np.float32)
    map_hw[cell] = 1
    # A view of 80 by 80 from (10, 20): cells of 20 pixels, centres at 20, 40, 60, 80 from left.
    assert is_hit(map_hw, View(10, 20, 80, 80), Box(10, 20, 50, 60)) is hit


def test_random_maps_hit_the_object_at_chance() -> None:
    images = bright_images(16).repeat(8, 0)
    game = play_pointing_game(
        Corner(), images, np.ones(len(images), np.int64), photo_rule(SIDE), ["random", "cam"]
    )
    assert game is not None
    assert (game.scenes, game.chance) == (128, 0.25)
    assert game.hits["random"] == pytest.approx(0.25, abs=0.12)
    assert 0 < game.hits["cam"] < 0.7


def test_no_pointing_game_for_ink_or_rectangular_images() -> None:
    images = bright_images(2)
    for rule in (digit_rule(SIDE), photo_rule((SIDE, 2 * SIDE))):
        assert play_pointing_game(Corner(), images, ONES[:2], rule, ["cam"]) is None


def test_score_cam_equals_the_services() -> None:
    infer, images = Corner(), bright_images(2)
    expected = []
    for image in images:
        features = infer(image[None], ["features"])["features"][0]
        active = features[scorecam.strongest_channels(features, 99)]
        unveiled = infer(scorecam.unveil(image, active), ["logits"])["logits"][:, 1]
        expected.append(scorecam.score_cam(active, unveiled))
    np.testing.assert_allclose(maps_of(infer, images, ONES[:2], "scorecam"), expected)
    blank = np.zeros((1, SIDE, SIDE, 3), np.uint8)

    def constant(images: Images, outputs: Sequence[str]) -> Mapping[str, Maps]:
        return dict.fromkeys(outputs, np.ones((len(images), 2, 4, 4), np.float32))

    assert not maps_of(constant, blank, ONES[:1], "scorecam")[0].any()
    with pytest.raises(ValueError, match="contrast is not a map of one class"):
        maps_of(infer, images, ONES[:2], "contrast")


def test_ranks_start_at_0_and_ties_follow_reading_order() -> None:
    map_hw = np.array([[1, 3], [1, 2]], np.float32)
    np.testing.assert_array_equal(ranks_of(map_hw), [[0.5, 0], [0.75, 0.25]])


def test_enlarged_map_equals_torchs_bilinear_interpolation() -> None:
    map_hw = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)
    wanted = torch.nn.functional.interpolate(
        torch.from_numpy(map_hw)[None, None], size=(12, 10), mode="bilinear", align_corners=False
    )[0, 0]
    np.testing.assert_allclose(enlarged(map_hw, 12, 10), wanted, atol=1e-6)


def test_road_is_not_computed_for_large_images() -> None:
    large = np.zeros((1, 160, 160, 3), np.uint8)
    assert road(Corner(), large, ONES[:1], [np.zeros((4, 4), np.float32)]) is None
