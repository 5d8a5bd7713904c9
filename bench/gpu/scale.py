"""Scale of the parts: everything on a GPU, or in miniature on a CPU."""

from collections.abc import Mapping
from dataclasses import dataclass

Changes = Mapping[str, object]
"""Differences from a recipe, named as in `Recipe.load`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Lesson:
    """One network's training, for as many epochs as its time allows."""

    changes: Changes
    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class School:
    """Networks that learn from a teacher, which is trained first."""

    data: str
    recipe: str
    teacher: Lesson
    pupils: Mapping[str, Lesson]
    """Lessons by the names of their runs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scale:
    """Networks that are trained, and loads that are measured.

    Attributes:
        limit_s: of each part; together they are fourteen minutes on a GPU.
        data: what `train` trains on.
        recipe: what its candidates differ from.
        marks: accuracies to reach, and what may reach each, the cheapest first.
        seeds: of the candidate that reached a mark.
        schools: for `teach`.
        models: names of shipped models, for `serve` and `parity`.
        batches: images in a pass, for `serve`.
        connections: of the load generator.
        load_s: seconds of each load, and of each way to run a pass a tenth of that.
        images: test images that `parity` compares.
    """

    limit_s: Mapping[str, float]
    data: str
    recipe: str
    marks: Mapping[float, Mapping[str, Changes]]
    seeds: int
    schools: tuple[School, ...]
    models: tuple[str, ...]
    batches: tuple[int, ...]
    connections: tuple[int, ...]
    load_s: float
    images: int


# 511 million multiply-accumulates an image, where `cifar10` has 117.
_WIDE = {"network__widths": [48, 128, 256, 384]}
_ROBUST = {"augmentation__cutmix": 0.5, "augmentation__corruptions": 0.5}
_PHOTOS = {**_ROBUST, "augmentation__outliers": 0.06, "label_smoothing": 0.0}
_DIGITS = {"augmentation__affine": 0.7, "label_smoothing": 0.0}

FULL = Scale(
    limit_s={"check": 40, "train": 110, "teach": 480, "serve": 110, "parity": 60},
    data="cifar10",
    recipe="cifar10",
    marks={
        0.94: {f"cifar10, {epochs} epochs": {"epochs": epochs} for epochs in (12, 18, 27, 42)},
        0.96: {f"wide, {epochs} epochs": {**_WIDE, "epochs": epochs} for epochs in (20, 32)},
    },
    seeds=3,
    schools=(
        School(
            data="cifar10",
            recipe="cifar10",
            teacher=Lesson(
                changes={**_WIDE, "augmentation__cutmix": 0.5, "label_smoothing": 0.0}, seconds=100
            ),
            pupils={
                "cifar10": Lesson(changes=_PHOTOS, seconds=165),
                "cifar10-small": Lesson(
                    changes={
                        **_PHOTOS,
                        "network__widths": [16, 48, 80, 128],
                        "network__whiten": False,
                    },
                    seconds=95,
                ),
            },
        ),
        School(
            data="mnist",
            recipe="mnist",
            teacher=Lesson(changes={**_DIGITS, "network__widths": [16, 32, 64, 128]}, seconds=22),
            pupils={
                "digits": Lesson(changes=_DIGITS, seconds=25),
                "digits-small": Lesson(
                    changes={**_DIGITS, "network__widths": [4, 6, 11, 20]}, seconds=22
                ),
            },
        ),
    ),
    models=("cifar10", "digits"),
    batches=(1, 32, 1024),
    connections=(1, 16, 64, 256),
    load_s=1.0,
    images=1000,
)

_TINY = {"network__widths": [4, 4, 8, 8]}

SMOKE = Scale(
    limit_s=dict.fromkeys(("check", "train", "teach", "serve", "parity"), 120),
    data="digits8",
    recipe="digits8",
    # Nothing reaches the first, so that each is tried, and everything the second.
    marks={
        1.01: {f"{epochs} epochs": {**_TINY, "epochs": epochs} for epochs in (1, 2)},
        0.05: {"1 epoch": {**_TINY, "epochs": 1}},
    },
    seeds=2,
    schools=(
        School(
            data="digits8",
            recipe="digits8",
            teacher=Lesson(changes={"network__widths": [4, 8, 8, 16]}, seconds=1),
            pupils={"small": Lesson(changes={**_TINY, **_ROBUST}, seconds=1)},
        ),
    ),
    models=("digits",),
    batches=(1, 2),
    connections=(1, 2),
    load_s=0.2,
    images=128,
)
