"""Parsing of learning rates, image sizes and --set."""

import pytest

from pipeline.cli.training_options import parse_rates, parse_settings, parse_size
from pipeline.data.registry import DATASETS, default_recipe
from pipeline.errors import PipelineError
from pipeline.training.recipe import Recipe, recipe_names


def test_lr_is_one_rate_or_several() -> None:
    assert parse_rates(None) is None
    assert parse_rates("0.1") == 0.1
    assert parse_rates("1e-3,0.1") == (0.001, 0.1)


@pytest.mark.parametrize("text", ["", "fast", "0.1,", "-1", "0", "inf", "nan"])
def test_invalid_rate_is_rejected(text: str) -> None:
    with pytest.raises(PipelineError, match="a positive number is needed"):
        parse_rates(text)


def test_image_size_is_a_side_or_height_and_width() -> None:
    assert parse_size("64") == 64
    assert parse_size("48x64") == (48, 64)


@pytest.mark.parametrize("text", ["", "0", "64x", "1x2x3", "-4", "large"])
def test_invalid_image_size_is_rejected(text: str) -> None:
    with pytest.raises(PipelineError, match="write auto, 64, or 48x64"):
        parse_size(text)


def test_any_option_of_a_recipe_can_be_set() -> None:
    settings = parse_settings(
        [
            "optimizer.kind=muon",
            "ema_decay=0.99",
            "network.whiten=true",
            "network.widths=[8, 8, 8, 8]",
        ]
    )
    recipe = Recipe.load("digits8", **settings)
    assert recipe.optimizer.kind == "muon"
    assert recipe.ema_decay == 0.99
    assert recipe.network.whiten
    assert recipe.network.widths == (8, 8, 8, 8)


def test_unknown_option_is_named() -> None:
    with pytest.raises(PipelineError, match=r"write NAME=VALUE"):
        parse_settings(["average"])
    with pytest.raises(PipelineError, match=r"optimizer\.speed: Extra inputs"):
        Recipe.load("digits8", **parse_settings(["optimizer.speed=9"]))


def test_every_data_set_has_a_default_recipe() -> None:
    assert default_recipe("mnist37") == "three-or-seven"
    assert default_recipe("./photos") == "folder"
    assert {default_recipe(name) for name in DATASETS} <= set(recipe_names())
