"""Training choices, one TOML file a recipe, in `pipeline/recipes/`."""

import tomllib
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline.errors import PipelineError

RECIPES = Path(__file__).parent / "recipes"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class OneCycle(_Frozen):
    """Cosine 1cycle with cyclical momentum (Smith and Topin, 2017; as fast.ai teaches it)."""

    peak_lr: float = Field(gt=0)
    warmup: float = Field(gt=0, lt=1)
    """Share of the steps that the rate rises for."""
    div: float = Field(ge=1)
    """The first rate is the peak's this-th part."""
    div_final: float = Field(ge=1)
    """The last rate is the first's this-th part."""
    momentum: tuple[float, float]
    """At the ends, and at the peak of the rate."""


class Recipe(_Frozen):
    """Everything that decides a training run but its data, seed and device."""

    architecture: Literal["resnet"]
    widths: tuple[int, ...]
    epochs: int = Field(ge=1)
    batch_size: int = Field(ge=2)
    schedule: OneCycle
    weight_decay: float = Field(ge=0)
    """Of convolutions and the linear layer; BatchNorm and biases have none."""
    label_smoothing: float = Field(ge=0, lt=1)
    validation: float = Field(gt=0, lt=1)
    """Share of the training images that chooses the epoch and fits the temperature."""
    flip: bool
    """Mirror every other image, at random."""
    pad: int = Field(ge=0)
    """Pixels of reflection at each side, before a random crop to size."""

    @classmethod
    def load(cls, name: str, **changes: int | None) -> Self:
        """Read the recipe NAME; `changes` that are not None replace its fields.

        Raises:
            PipelineError: if there is no such recipe or a field is wrong.

        """
        file = RECIPES / f"{name}.toml"
        if not file.is_file():
            known = ", ".join(sorted(path.stem for path in RECIPES.glob("*.toml")))
            raise PipelineError(f"no recipe {name!r}; there are: {known}")
        fields = tomllib.loads(file.read_text())
        fields |= {key: value for key, value in changes.items() if value is not None}
        try:
            return cls.model_validate(fields)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise PipelineError(f"recipe {name}: {where}: {first['msg']}") from error
