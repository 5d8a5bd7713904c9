"""Figures: they show the given values, and the same values give the same bytes."""

import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from pipeline.errors import PipelineError
from pipeline.report import figures

RNG = np.random.default_rng(0)
STEPS = np.arange(1, 31)
EPOCHS = STEPS / 10


def _losses() -> Figure:
    return figures.losses(EPOCHS, 3 / STEPS, [2.0, 1.0, 0.5])


def _accuracies() -> Figure:
    return figures.accuracies([0.5, 0.9, 0.8], best=2)


def _schedule() -> Figure:
    return figures.schedule(EPOCHS, np.linspace(0, 0.4, 30), np.linspace(0.95, 0.85, 30))


def _learning_rates() -> Figure:
    rates = np.geomspace(1e-7, 10, 30)
    return figures.learning_rates(rates, 3 / STEPS, {"valley": 1e-3, "steepest": 1e-2})


def _confusion_matrix() -> Figure:
    return figures.confusion_matrix([[8, 2], [0, 10]], ("cat", "elephant"))


def _reliability() -> Figure:
    gap = np.nan
    return figures.reliability_diagram(
        [gap, 0.4, 0.9], [gap, 0.5, 0.8], [0, 10, 30], uncalibrated=[[0.3, gap, 0.9], [0, gap, 1]]
    )


def _colorful_dimension() -> Figure:
    counts = np.zeros((30, 40))
    counts[:, :4] = np.arange(1, 5)
    return figures.colorful_dimension(
        "features.0",
        STEPS,
        counts,
        (0.0, 10.0),
        means=np.full(30, 0.4),
        deviations=np.full(30, 0.6),
        near_zero=np.full(30, 0.5),
    )


ALL: tuple[Callable[[], Figure], ...] = (
    _losses,
    _accuracies,
    _schedule,
    _learning_rates,
    _confusion_matrix,
    _reliability,
    _colorful_dimension,
)


def _texts(svg: str) -> set[str]:
    return {"".join(text.itertext()) for text in ET.fromstring(svg).iter() if "text" in text.tag}


def _line(axes: Axes, at: int = 0) -> tuple[list[float], list[float]]:
    x, y = axes.get_lines()[at].get_data()
    return list(np.asarray(x)), list(np.asarray(y))


@pytest.mark.parametrize("draw", ALL)
def test_svg_is_reproducible_and_has_no_date(
    draw: Callable[[], Figure],
) -> None:
    svg = figures.to_svg(draw())
    assert svg == figures.to_svg(draw())
    assert ET.fromstring(svg).tag.endswith("svg")
    assert "dc:date" not in svg


@pytest.mark.parametrize("draw", ALL)
def test_svg_uses_the_pages_text_colour_and_no_outside_reference(
    draw: Callable[[], Figure],
) -> None:
    svg = figures.to_svg(draw())
    assert "currentColor" in svg
    # Any other colour could be illegible on a dark page.
    colours = set(re.findall(r"(?:fill|stroke): (#[0-9a-f]+)", svg))
    assert colours <= {"#2f7ebc", "#e0702a", "#3a9a6a"}
    outside = re.findall(r'href="(?!#|data:)[^"]*"|url\((?!#)[^)]*\)', svg)
    assert not outside


def test_ids_of_figures_on_one_page_differ() -> None:
    names = [re.findall(r' id="([^"]+)"', figures.to_svg(draw())) for draw in ALL]
    together = [name for each in names for name in each]
    assert len(together) == len(set(together)) > 0


def test_losses_and_accuracies_are_drawn_at_their_epochs() -> None:
    axes = _losses().axes[0]
    assert _line(axes) == (list(EPOCHS), list(3 / STEPS))
    assert _line(axes, 1) == ([1, 2, 3], [2.0, 1.0, 0.5])
    axes = _accuracies().axes[0]
    assert _line(axes) == ([1, 2, 3], [0.5, 0.9, 0.8])
    assert _line(axes, 1) == ([2], [0.9])
    assert "kept: epoch 2, 90.00%" in _texts(figures.to_svg(_accuracies()))


def test_long_training_is_thinned_and_keeps_its_ends() -> None:
    steps = np.arange(100_000.0)
    x, _ = _line(figures.losses(steps, steps, [1.0]).axes[0])
    assert len(x) <= 600
    assert (x[0], x[-1]) == (0, 99_999)


def test_suggested_rate_is_marked_on_the_curve() -> None:
    rates = np.array([1e-4, 1e-2, 1.0])
    axes = figures.learning_rates(rates, [3.0, 1.0, 2.0], {"valley": 1e-3}).axes[0]
    # Half way between the first two, as the axis is logarithmic.
    (rate,), (loss,) = _line(axes, 1)
    assert rate == 1e-3
    assert loss == pytest.approx(2.0)
    assert axes.get_xscale() == "log"
    assert axes.get_legend_handles_labels()[1] == ["valley: 0.001"]


def test_confusion_matrix_shows_class_names_and_non_zero_counts() -> None:
    texts = _texts(figures.to_svg(_confusion_matrix()))
    assert {"cat", "elephant", "8", "2", "10"} <= texts
    assert "0" not in texts


def test_confusion_matrix_of_many_classes_has_no_text() -> None:
    svg = figures.to_svg(figures.confusion_matrix(np.eye(100), [f"class {i}" for i in range(100)]))
    assert "class 1" not in _texts(svg)
    assert len(svg) < 20_000


def test_class_names_in_other_scripts_stay_text(tmp_path: Path) -> None:
    figure = figures.confusion_matrix(np.eye(2), ("猫", "狗"))
    assert {"猫", "狗"} <= _texts(figures.to_svg(figure))
    figures.save(figure, tmp_path / "confusion.png")


def test_dollars_in_class_names_are_text_and_long_names_are_cut() -> None:
    names = ("$x_{$", "a <b>", "a very long name that nobody reads")
    texts = _texts(figures.to_svg(figures.confusion_matrix(np.eye(3), names)))
    assert {"$x_{$", "a <b>", "a very long name th…"} <= texts


def test_confusion_matrix_opacity_follows_the_share_of_the_row() -> None:
    cells = _confusion_matrix().axes[0].get_images()[0].get_array()
    assert cells is not None
    opacity = cells[..., 3]
    assert opacity[0, 0] == pytest.approx(0.8 * opacity[1, 1])
    assert 0 == opacity[1, 0] < opacity[0, 1] < opacity[0, 0]


def test_reliability_diagram_leaves_out_empty_bins() -> None:
    upper, lower = _reliability().axes
    assert _line(upper, 1) == ([0.3, 0.9], [0, 1])
    assert _line(upper, 2) == ([0.4, 0.9], [0.5, 0.8])
    heights = [bar.get_height() for bar in lower.patches]  # type: ignore[attr-defined]
    assert heights == [0, 0.25, 0.75]


def test_colorful_dimension_shows_used_bins_lighter_where_fuller() -> None:
    counts = np.zeros((2, 40))
    counts[:, 2], counts[:, 5] = 1000, 1
    flat = np.zeros(2)
    figure = figures.colorful_dimension(
        "head", [1, 11], counts, (-10, 10), means=flat, deviations=flat, near_zero=flat
    )
    (image,) = figure.axes[0].get_images()
    cells = np.asarray(image.get_array())
    assert cells.shape == (4, 2, 4)
    assert image.get_extent() == pytest.approx([1, 11, -9, -7])
    assert cells[1:3, :, 3].max() == 0
    assert cells[0, 0, :3].sum() > cells[3, 0, :3].sum()


def test_colorful_dimension_of_a_single_recording_is_drawn() -> None:
    once = np.ones(1)
    figure = figures.colorful_dimension(
        "head", [1], np.ones((1, 40)), (0, 10), means=once, deviations=once, near_zero=once
    )
    assert "head" in _texts(figures.to_svg(figure))


@pytest.mark.parametrize("window", [1, 2, 5, 50])
def test_smoothing_is_a_moving_mean_that_shrinks_at_the_ends(window: int) -> None:
    values = RNG.normal(size=20)
    before, after = (window - 1) // 2, window // 2
    expected = [values[max(0, at - before) : at + after + 1].mean() for at in range(20)]
    np.testing.assert_allclose(figures.smoothed(values, window), expected)


def test_figure_is_saved_in_the_format_of_the_suffix(tmp_path: Path) -> None:
    figures.save(_losses(), tmp_path / "losses.svg")
    assert (tmp_path / "losses.svg").read_text().startswith("<svg")
    figures.save(_losses(), tmp_path / "losses.PNG")
    with Image.open(tmp_path / "losses.PNG") as picture:
        assert picture.format == "PNG"
        assert picture.convert("RGBA").getpixel((0, 0)) == (255, 255, 255, 255)
    with pytest.raises(PipelineError, match=r"written as \.svg or \.png"):
        figures.save(_losses(), tmp_path / "losses.pdf")
    figures.save(_losses(), tmp_path / "new" / "folder" / "losses.svg")
    assert (tmp_path / "new" / "folder" / "losses.svg").is_file()
    with pytest.raises(PipelineError, match="choose another file"):
        figures.save(_losses(), tmp_path / "losses.svg" / "more.svg")
