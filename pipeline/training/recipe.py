"""Training choices, one TOML file a recipe, in `pipeline/training/recipes/`."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from models.options import NetworkOptions
from pipeline.errors import PipelineError
from pipeline.training.schedules import Schedule

RECIPES = Path(__file__).parent / "recipes"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Augmentation(_Frozen):
    """What training changes about an image at random."""

    flip: Literal["none", "random", "alternating"] = "none"
    """Mirror every other image, drawn anew each time, or each image in every other epoch."""
    pad: int = Field(default=0, ge=0)
    """Pixels of reflection at each side, before a random crop to size."""
    cutout: int = Field(default=0, ge=0)
    """Side in pixels of a square that is painted over (DeVries and Taylor, 2017)."""
    cutmix: float = Field(default=0.0, ge=0, le=1)
    """Share of the images of which a box shows another one instead (Yun et al., 2019)."""


class Optimizer(_Frozen):
    """How a gradient becomes a step."""

    kind: Literal["sgd", "adamw", "muon"] = "sgd"
    """`muon` moves the convolutions by Muon, and everything else by SGD."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Of convolutions and the linear layer; norms and biases have none."""
    bias_scale: float = Field(default=1.0, gt=0)
    """Norms and biases learn at so many times the rate."""
    muon_peak: float = Field(default=0.05, gt=0)
    """Peak rate of the convolutions under `muon`."""
    muon_momentum: float = Field(default=0.6, ge=0, lt=1)


class Recipe(_Frozen):
    """Everything that decides a training run but its data, seed and device."""

    data: str
    """The data set that it is meant for, or `folder`."""
    network: NetworkOptions
    epochs: int = Field(ge=1)
    batch_size: int = Field(ge=2)
    schedule: Schedule
    optimizer: Optimizer = Optimizer()
    augmentation: Augmentation = Augmentation()
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    distillation_temperature: float = Field(default=2.0, gt=0)
    """What logits are divided by where teachers' answers are learnt instead of the labels."""
    validation: float = Field(default=0.1, gt=0, lt=1)
    """Share of the training images that chooses the epoch and fits the temperature."""
    ema_decay: float = Field(default=0.0, ge=0, lt=1)
    """Decay, per step, of the moving average of the weights that is kept; 0 keeps the last.

    The average begins with the schedule's tail, or at once where it has none; until it is
    1 / (1 - decay) steps old all of them count the same. Its BatchNorm layers are measured anew
    after each epoch.
    """
    class_weights: bool = False
    """Weigh each class by the inverse of its frequency."""
    freeze_epochs: int = Field(default=0, ge=0)
    """Epochs before these that train the head alone, with a cycle of their own."""
    bn_freeze: bool = False
    """BatchNorm layers of the features keep their statistics."""

    @classmethod
    def load(cls, name: str, /, **changes: object) -> Self:
        """Read the recipe NAME, or a TOML file; `changes` that are not None replace its fields.

        A field of a table is named with two underscores, as in `schedule__peak`.

        Raises:
            PipelineError: if there is no such recipe or a field is wrong.

        """
        file = Path(name) if name.endswith(".toml") else RECIPES / f"{name}.toml"
        if not file.is_file():
            raise PipelineError(f"no recipe {name!r}; there are: {', '.join(recipe_names())}")
        try:
            fields = tomllib.loads(file.read_text())
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise PipelineError(f"{file} is not TOML: {error}") from error
        return cls.of(fields, changes, name=name)

    def but(self, **changes: object) -> Self:
        """The recipe with `changes`, named as in `load`."""
        return self.of(self.model_dump(), changes, name="changed")

    @classmethod
    def of(cls, fields: Mapping[str, Any], changes: Mapping[str, object], *, name: str) -> Self:
        """Validate `fields` with `changes` in them.

        Raises:
            PipelineError: naming the first field that is wrong.

        """
        merged = dict(fields)
        for key, value in changes.items():
            if value is None:
                continue
            table, _, field = key.partition("__")
            if not field:
                merged[table] = value
                continue
            before = merged.get(table, {})
            if not isinstance(before, Mapping):
                raise PipelineError(f"recipe {name}: {table} is one value; set {table} itself")
            merged[table] = {**before, field: value}
        try:
            return cls.model_validate(merged)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise PipelineError(f"recipe {name}: {where}: {first['msg']}") from error


def recipe_names() -> list[str]:
    """The recipes that ship, in order of their names."""
    return sorted(path.stem for path in RECIPES.glob("*.toml"))
