"""What a closer look brings, and how the benchmark of it counts."""

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from service.inference.in_process import in_process

from bench import zoom
from bench.explaining.estimates import Estimate, mean, share
from bench.explaining.looks import Look, Looks, judge, overlap
from bench.explaining.zoom_report import Report, render, render_cuts, summarise
from limelight.client.client import ClassMap, Explanation, Score
from limelight.explanations.bounding_box import Box
from pipeline.data.registry import CIFAR10_CLASSES, Split, load_dataset
from pipeline.errors import DataError
from service.settings import Settings

CAT = CIFAR10_CLASSES.index("cat")
EXAMPLES = Path(__file__).parents[2] / "examples"


def answer(view: tuple[float, float, float, float], values: list[list[float]]) -> Explanation:
    """Class 3 at 60 %, with this map over this part of the upload."""
    cam = ClassMap(
        target="cat",
        index=3,
        method="cam",
        evaluations=1,
        values=tuple(map(tuple, values)),
        peak=max(map(max, values)),
        box=(0.0, 0.0, 40.0, 20.0),
    )
    return Explanation(
        model="cifar10",
        version="1",
        label="cat",
        index=3,
        confidence=0.6,
        abstain=None,
        ood_score=None,
        out_of_distribution=None,
        scores=(Score("cat", 3, 0.6),),
        view=view,
        cam=cam,
        cams=(),
    )


def look(*, right: bool, confidence: float) -> Look:
    return Look(right=right, confidence=confidence, pointed=right, chance=0.25, overlap=0.5)


def test_a_share_has_wilsons_interval() -> None:
    found = share([True] * 8 + [False] * 2)
    # By the formula, with z = 1.96: (p + z²/2n ± z √(p(1-p)/n + z²/4n²)) / (1 + z²/n).
    assert found.value == 0.8
    assert found.low == pytest.approx(0.4902, abs=1e-4)
    assert found.high == pytest.approx(0.9433, abs=1e-4)


def test_a_mean_has_its_standard_errors_around_it() -> None:
    found = mean([1.0, 2.0, 3.0, 4.0])
    reach = 1.96 * np.std([1, 2, 3, 4], ddof=1) / 2
    assert (found.low, found.value, found.high) == pytest.approx((2.5 - reach, 2.5, 2.5 + reach))


def test_the_peak_is_looked_for_where_the_map_lies() -> None:
    # The highest of two by four cells over x 100 to 180, y 20 to 40 has its centre at (170, 35).
    seen = answer((100.0, 20.0, 180.0, 40.0), [[0, 1, 2, 0], [0, 0, 1, 3]])
    assert judge(seen, 3, Box(160, 30, 175, 36)).pointed
    assert not judge(seen, 3, Box(160, 30, 169, 36)).pointed
    assert not judge(seen, 3, Box(160, 36, 175, 40)).pointed


def test_chance_is_the_share_of_what_was_seen() -> None:
    seen = answer((0.0, 0.0, 80.0, 20.0), [[1]])
    assert judge(seen, 3, Box(0, 0, 40, 10)).chance == 0.25
    assert judge(seen, 3, Box(60, 10, 100, 50)).chance == 0.125  # half of it lies outside
    assert judge(seen, 3, Box(90, 10, 100, 50)).chance == 0


def test_boxes_overlap_by_what_they_share_of_their_union() -> None:
    assert overlap(Box(0, 0, 40, 20), Box(0, 0, 40, 20)) == 1
    assert overlap(Box(0, 0, 40, 20), Box(20, 10, 60, 30)) == pytest.approx(200 / 1400)
    assert overlap(Box(0, 0, 40, 20), Box(50, 0, 60, 20)) == 0
    assert judge(answer((0, 0, 80, 20), [[1]]), 4, Box(0, 0, 40, 20)).overlap == 1


def test_the_more_confident_look_counts_and_gains_are_of_the_same_scene() -> None:
    looks = [
        Looks(look(right=False, confidence=0.4), look(right=True, confidence=0.9), True, True),
        Looks(look(right=True, confidence=0.8), look(right=False, confidence=0.5), True, True),
        Looks(look(right=False, confidence=0.8), look(right=True, confidence=0.7), True, False),
        Looks(look(right=True, confidence=0.8), look(right=True, confidence=0.8), False, True),
    ]
    row = summarise(looks, side=64, cut=1.0)
    assert (row.first.value, row.closer.value, row.surer.value) == (0.5, 0.75, 0.75)
    assert (row.anew, row.alone.value, row.gained.value) == (0.75, 0.75, 0.25)
    assert row.gained == mean([1.0, -1.0, 1.0, 0.0])


def test_the_tables_say_what_was_measured() -> None:
    looks = [
        Looks(look(right=False, confidence=0.4), look(right=True, confidence=0.9), True, True)
    ] * 4
    rows = [summarise(looks, side=side, cut=cut) for side in (64, 96) for cut in (0.5, 1.0)]
    facts = {"date": "2026-11-21", "model": "cifar10 2", "data": "some", "size": 256, "seed": 0}
    made = Report(scenes=4, rows=rows, **facts)
    assert "| 64 px | 100% | 0.0% (0.0% to 49.0%) | 100.0% (51.0% to 100.0%) |" in render(made)
    assert "+100.0 points (+100.0 to +100.0)" in render(made)
    lines = render_cuts(made).splitlines()
    assert "| no closer look | 0.0% | 0.0% | 0.0% |" in lines
    assert "| 0.50 | 100.0% / 100.0% | 100.0% / 100.0% | 100.0% / 100.0% |" in lines


async def test_the_cat_that_ships_is_put_and_looked_at_by_the_seed_alone() -> None:
    with Image.open(EXAMPLES / "cat.png") as photo:
        cat = np.asarray(photo.convert("RGB").resize((32, 32), Image.Resampling.BOX))
    cats = Split(np.stack([cat] * 6), np.full(6, CAT))
    async with in_process(Settings(device="cpu")) as client:
        made = [
            await zoom.look_at_all(cats, client, side=128, scenes=6, seed=seed)
            for seed in (0, 0, 1)
        ]
    assert [each.first for each in made[0]] == [each.first for each in made[1]]
    assert [each.first for each in made[0]] != [each.first for each in made[2]]
    assert all(each.alone for looks in made for each in looks)
    # Wherever it lies and whatever is around it, a quarter of the scene is the cat's.
    assert all(each.first.chance == 0.25 for looks in made for each in looks)
    # On the closer look it is more: the cut is smaller, and where the cat is.
    anew = [each.closer for looks in made for each in looks if each.anew]
    assert len(anew) > 12
    assert mean([each.chance for each in anew]).low > 0.4


@pytest.mark.parametrize("side", [96, 128])
async def test_a_closer_look_answers_better_where_the_object_is_small(side: int) -> None:
    try:
        # Not of the test set, which is measured once.
        train = load_dataset("cifar10").train
    except DataError as error:
        pytest.skip(str(error))
    async with in_process(Settings(device="cpu")) as client:
        looks = await zoom.look_at_all(train, client, side=side, scenes=48, seed=1)
    row = summarise(looks, side=side, cut=1.0)
    print(f"\n{side} px: {row.first.value:.0%} right at first, {row.closer.value:.0%} then")
    assert row.closer.value > row.first.value + 0.15
    assert row.surer.value > row.first.value + 0.1
    assert row.gained.low > 0
    assert row.pointed.low > row.chance
    assert row.alone.value > 0.85


def test_without_the_data_the_command_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["zoom", "--to", str(tmp_path / "build")])
    assert zoom.main() == 1
    assert "limelight data fetch cifar10" in capsys.readouterr().err
    assert not (tmp_path / "build").exists()


def test_a_report_is_written_as_json_and_markdown(tmp_path: Path) -> None:
    estimate = Estimate(value=0.5, low=0.4, high=0.6)
    looks = [Looks(look(right=True, confidence=1), look(right=True, confidence=1), True, True)] * 2
    row = summarise(looks, side=64, cut=1.0).model_copy(update={"alone": estimate})
    facts = {"date": "2026-11-21", "model": "cifar10 2", "data": "some", "size": 256, "seed": 0}
    made = Report(scenes=2, rows=[row], **facts)
    made.write(tmp_path / "new", "zoom", render(made))
    written = (tmp_path / "new" / "zoom.json").read_text()
    assert Report.model_validate_json(written) == made
    assert (tmp_path / "new" / "zoom.md").read_text() == render(made)
