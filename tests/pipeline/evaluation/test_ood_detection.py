"""OOD scores, the choice between them, and the abstention threshold, on known distributions."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.stats import norm
from torch import Tensor

from limelight.artifact.field_types import OodScoreName
from models.ood_scores import (
    Energy,
    MaxLogit,
    NearestNeighbour,
    NearestProjection,
    VirtualLogit,
    candidates,
)
from pipeline.data.dataset_cache import write_cached
from pipeline.data.registry import digit_rule, photo_rule
from pipeline.data.stored_images import Images
from pipeline.evaluation.abstention import choose_threshold, measure_abstention
from pipeline.evaluation.ood_datasets import (
    images_of_kind,
    kinds_for,
    kinds_missing,
    ood_images,
)
from pipeline.evaluation.ood_detection import (
    ChosenScore,
    choose_score,
    measure_detection,
    ood_count,
)

FeaturesAndLogits = tuple[Tensor, Tensor]


def blank(count: int, size: int = 8) -> Images:
    return np.zeros((count, size, size, 3), np.uint8)


def test_energy_and_max_logit_equal_their_definitions() -> None:
    logits, pooled = torch.tensor([[2.0, 1.0, -1.0], [0.0, 0.0, 0.0]]), torch.randn(2, 5)
    energy = -torch.log(torch.exp(logits).sum(1))
    torch.testing.assert_close(Energy()(pooled, logits), energy)
    torch.testing.assert_close(MaxLogit()(pooled, logits), torch.tensor([-2.0, 0.0]))


def test_virtual_logit_equals_the_scaled_residual() -> None:
    rng = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(6, 6, generator=rng)).Q
    spread = torch.tensor([9.0, 5.0, 4.0, 0.5, 0.3, 0.2])
    pooled = torch.randn(200_000, 6, generator=rng) * spread @ basis.T + 7
    logits = torch.randn(200_000, 4, generator=rng) + 3
    scored = VirtualLogit(pooled, logits)
    # The residual along the three directions of least variance, scaled to the largest logits.
    residual = ((pooled - pooled.mean(0)) @ basis[:, 3:]).norm(dim=1)
    virtual = residual * logits.amax(1).mean() / residual.mean()
    expected = virtual - logits.logsumexp(1)
    torch.testing.assert_close(scored(pooled, logits), expected, rtol=0, atol=0.1)
    # The score orders images as the softmax probability of the additional class does.
    with_one_more = torch.cat([logits, scored(pooled, logits)[:, None]], 1)
    assert with_one_more.isfinite().all()
    shares = torch.cat([logits, virtual[:, None]], 1).softmax(1)[:, -1]
    ranks = [values.argsort().argsort().double() for values in (shares, scored(pooled, logits))]
    assert float(torch.corrcoef(torch.stack(ranks))[0, 1]) > 0.99


def test_virtual_logit_is_left_out_where_features_do_not_vary() -> None:
    scores = candidates(torch.zeros(100, 20), torch.rand(100, 3))
    assert [score.name for score in scores] == ["energy", "max-logit", "knn", "knn-norm"]


def test_virtual_logit_detects_new_features_despite_confident_logits() -> None:
    pooled = torch.randn(500, 8) * torch.tensor([5.0] * 4 + [0.1] * 4)
    logits = torch.randn(500, 3) + 4
    scored = VirtualLogit(pooled, logits)
    outside = pooled[:50] + torch.tensor([0.0] * 4 + [3.0] * 4)
    confident = logits[:50] + 10
    assert scored(outside, confident).min() > scored(pooled, logits).max()
    assert Energy()(outside, confident).max() < Energy()(pooled, logits).min()


def test_virtual_logit_needs_enough_images_and_varying_features() -> None:
    varying, logits = torch.randn(40, 16), torch.randn(40, 3)
    dead = torch.cat([varying[:, :4], torch.zeros(40, 12)], 1)
    names = {
        length: [each.name for each in candidates(features[:length], logits[:length])]
        for length, features in ((40, varying), (31, varying))
    }
    nearest = ["knn", "knn-norm"]
    assert names == {
        40: ["energy", "max-logit", "vim", *nearest],
        31: ["energy", "max-logit", *nearest],
    }
    assert [each.name for each in candidates(dead, logits)] == ["energy", "max-logit", *nearest]
    assert [each.name for each in candidates(varying[:4], logits[:4])] == ["energy", "max-logit"]


@pytest.mark.parametrize(
    ("images", "classes", "number"),
    [(7, 3, 7), (599, 3, 300), (1199, 120, 600), (1999, 500, 1000)],
)
def test_nearest_neighbours_equal_their_definitions(images: int, classes: int, number: int) -> None:
    rng = torch.Generator().manual_seed(0)
    pooled, asked = torch.rand(images, 6, generator=rng), torch.rand(20, 6, generator=rng)
    kept = pooled.double()[:: 1 if images == number else 2]
    assert len(kept) == number
    distances = 1 - np.einsum("nc,kc->nk", unit(asked), unit(kept))
    fifth = torch.from_numpy(np.sort(distances, 1)[:, 4])
    known, logits = torch.zeros(images, classes), torch.zeros(20, classes)
    found = NearestNeighbour(pooled, known)(asked, logits)
    torch.testing.assert_close(found.double(), fifth, rtol=0, atol=1e-6)
    projected = (fifth - 1) * asked.double().norm(dim=1)
    found = NearestProjection(pooled, known)(asked, logits)
    torch.testing.assert_close(found.double(), projected, rtol=0, atol=1e-6)


def unit(features: Tensor) -> NDArray[np.float64]:
    vectors = features.double().numpy()
    shrunk: NDArray[np.float64] = vectors / np.sqrt((vectors**2).sum(1, keepdims=True))
    return shrunk


def test_images_without_features_are_far_from_all_others() -> None:
    known = NearestNeighbour(torch.rand(10, 4), torch.zeros(10, 3))
    scored = known(torch.zeros(2, 4), torch.zeros(2, 3))
    torch.testing.assert_close(scored, torch.ones(2))


@pytest.mark.parametrize(
    ("ood_row", "better"),
    # In-distribution images have the same largest logit but another energy; and the reverse.
    [([5.0, -9.0, -9.0, -9.0], "energy"), ([3.9, 3.9, 3.9, 3.9], "max-logit")],
)
def test_score_with_the_higher_auroc_is_chosen(ood_row: list[float], better: OodScoreName) -> None:
    in_distribution = torch.tensor([[5.0, 3.0, 0.0, 0.0]])

    def extract(images: Images) -> FeaturesAndLogits:
        # In-distribution images are blank here, and all features are noise.
        row = torch.tensor([ood_row]) if images[:].any() else in_distribution
        return torch.randn(len(images), 2), row.repeat(len(images), 1)

    choice = choose_score(
        extract, blank(30), blank(200), [("white", np.full((20, 8, 8, 3), 255, np.uint8))]
    )
    assert choice.auroc[better] > 0.9
    other: OodScoreName = "max-logit" if better == "energy" else "energy"
    assert choice.auroc[better] > choice.auroc[other]
    assert choice.auroc[choice.ood_score.name] == max(choice.auroc.values())


def test_detection_figures_equal_those_of_normal_distributions() -> None:
    rng, shift = np.random.default_rng(0), 2.0
    in_distribution = rng.normal(size=20_000).astype(np.float32)
    choice = ChosenScore(
        ood_score=Energy(),
        threshold=1.5,
        auroc={"energy": 0.5},
        in_distribution=in_distribution[:10],
        ood={},
    )
    ood = {kind: rng.normal(shift, size=2000).astype(np.float32) for kind in ("noise", "textures")}
    measured = measure_detection(choice, in_distribution, ood)
    assert measured.against.keys() == {"noise", "textures"}
    for detection in measured.against.values():
        assert detection.images == 2000
        assert detection.auroc == pytest.approx(norm.cdf(shift / 2**0.5), abs=0.01)
        assert detection.fpr95 == pytest.approx(norm.cdf(norm.ppf(0.95) - shift), abs=0.03)
    assert measured.flagged == pytest.approx(norm.sf(1.5), abs=0.01)


def test_threshold_flags_5_percent_of_the_validation_images() -> None:
    logits = torch.randn(1000, 3, generator=torch.Generator().manual_seed(1))
    pooled = torch.randn(1000, 4, generator=torch.Generator().manual_seed(2))

    def extract(images: Images) -> FeaturesAndLogits:
        return pooled[: len(images)], logits[: len(images)]

    choice = choose_score(extract, blank(500), blank(1000), [("white", blank(5))])
    scores = choice.ood_score(pooled, logits)
    np.testing.assert_array_equal(choice.in_distribution, scores)
    np.testing.assert_array_equal(choice.ood["white"], scores[:5])
    assert float((scores > choice.threshold).double().mean()) == pytest.approx(0.05, abs=0.002)


def test_cached_data_sets_are_ood_for_other_data_sets_only(cache: Path) -> None:
    assert kinds_for("mnist") == kinds_for("my-photos") == ("noise", "textures")
    assert kinds_missing("mnist") == ("fashion", "cifar10")
    rng = np.random.default_rng(0)
    arrays = {
        "train_images": rng.integers(0, 100, (9, 28, 28, 1), np.uint8),
        "train_labels": np.zeros(9, np.uint8),
        "test_images": rng.integers(150, 256, (7, 28, 28, 1), np.uint8),
        "test_labels": np.zeros(7, np.uint8),
    }
    for name in ("mnist", "fashion", "cifar10"):
        write_cached(name, arrays)
    assert cache.is_dir()
    assert kinds_for("digits8") == ("fashion", "cifar10", "noise", "textures")
    assert kinds_for("my-photos") == ("mnist", "fashion", "noise", "textures")
    assert kinds_for("fashion") == ("mnist", "noise", "textures")
    assert kinds_missing("digits8") == kinds_missing("my-photos") == ()


def test_ood_images_are_prepared_as_in_the_service() -> None:
    rng = np.random.default_rng(0)
    for rule in (digit_rule(28), photo_rule((24, 40))):
        for kind in ("noise", "textures"):
            images = images_of_kind(kind, rule, 6, rng, held_out=False)
            assert images.shape == (6, rule.height, rule.width, rule.channels)
            assert images.dtype == np.uint8
            assert len(np.unique(images, axis=0)) == 6


def test_held_out_ood_images_differ_from_those_of_the_choice(cache: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("mnist", "fashion"):
        images = rng.integers(0, 256, (40, 28, 28, 1), np.uint8)
        write_cached(
            name,
            {
                "train_images": images[:20],
                "train_labels": np.zeros(20, np.uint8),
                "test_images": images[20:],
                "test_labels": np.zeros(20, np.uint8),
            },
        )
    assert cache.is_dir()
    # Reading verifies the published digests, which made-up data cannot have.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.data.dataset_cache.verify", lambda *_: None)
        chosen, held_out = (
            dict(ood_images("my-photos", photo_rule(28), 6, held_out=each))
            for each in (False, True)
        )
    assert list(chosen) == list(held_out) == ["mnist", "fashion", "noise", "textures"]
    for kind, images in chosen.items():
        assert images.shape == held_out[kind].shape == (6, 28, 28, 3)
        both = np.concatenate([images, held_out[kind]])
        assert len(np.unique(both, axis=0)) == 12


@pytest.mark.parametrize(("images", "count"), [(3, 50), (10, 50), (21, 105), (5000, 1000)])
def test_few_images_are_compared_with_five_times_as_many_ood_images(
    images: int, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.evaluation.ood_detection.OOD_IMAGES", 1000)
    assert ood_count(images) == count


def test_threshold_is_the_lowest_that_makes_errors_a_fifth_as_frequent() -> None:
    rng = np.random.default_rng(2)
    confidence = rng.uniform(0.3, 1, 5000)
    correct = rng.random(5000) < confidence
    threshold, limit = choose_threshold(confidence, correct)
    kept = confidence >= threshold
    assert limit == pytest.approx(0.2 * (~correct).mean())
    assert (~correct[kept]).mean() <= limit
    assert 0.2 < kept.mean() < 0.5
    for lower in np.sort(confidence[~kept])[::-1][:200]:
        assert (~correct[confidence >= lower]).mean() > limit
    measured = measure_abstention(threshold, limit, confidence, correct)
    assert (measured.coverage, measured.images) == (kept.mean(), 5000)
    assert measured.accuracy == correct[kept].mean()


def test_equal_confidences_are_kept_or_flagged_together() -> None:
    confidence = np.array([0.9, 0.8, 0.8, 0.8, 0.4])
    correct = np.array([True, True, True, False, False])
    assert choose_threshold(confidence, correct)[0] == 0.9


def test_threshold_is_0_without_errors_and_1_if_all_are_errors() -> None:
    confidence = np.array([0.9, 0.5])
    assert choose_threshold(confidence, np.array([True, True])) == (0.0, 0.0)
    threshold, limit = choose_threshold(confidence, np.array([False, False]))
    assert threshold == 1.0
    assert measure_abstention(threshold, limit, confidence, np.zeros(2, bool)).accuracy == 0.0
