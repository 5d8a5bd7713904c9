"""Recipes: all options of a training run, one TOML file each in `pipeline/training/recipes/`."""

from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from models.options import NetworkOptions
from pipeline.training.optimization.schedules import Schedule
from pipeline.training.recipe_file import RecipeFile

RECIPES = Path(__file__).parent / "recipes"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Augmentation(_Frozen):
    """Random changes of training images."""

    flip: Literal["none", "random", "alternating"] = "none"
    """Mirror an image with probability 1/2 (`random`), or in every second epoch."""
    pad: int = Field(default=0, ge=0)
    """Pixels of reflection at each side, before a random crop to the original size."""
    cutout: int = Field(default=0, ge=0)
    """Side in pixels of a square that is covered (DeVries and Taylor, 2017)."""
    cutmix: float = Field(default=0.0, ge=0, le=1)
    """Share of the images in which a box shows another image (Yun et al., 2019)."""
    mixup: float = Field(default=0.0, ge=0, le=1)
    """Share of the images that are blended with another image (Zhang et al., 2018)."""
    randaugment: float = Field(default=0.0, ge=0, le=1)
    """Strength of two random changes of geometry or colour, as a share of the largest ones
    (RandAugment, Cubuk et al., 2020)."""
    affine: float = Field(default=0.0, ge=0, le=1)
    """Strength of rotation (up to 20 degrees), scaling (up to 1.2) and shear (up to 0.2)."""
    corruptions: float = Field(default=0.0, ge=0, le=1)
    """Share of the images with JPEG artefacts, blur, noise, other light, or mixed with a picture.

    Teachers see them before that.
    """
    outliers: float = Field(default=0.0, ge=0, lt=1)
    """Share of the images that are replaced by a picture of no class, to learn equal probabilities
    for (Outlier Exposure, Hendrycks et al., 2019)."""

    @model_validator(mode="after")
    def _has_room_for_mixtures(self) -> Self:
        if self.cutmix + self.mixup > 1:
            raise ValueError("cutmix and mixup are shares of the images: their sum is above 1")
        return self


class Optimizer(_Frozen):
    """Optimiser and its options."""

    kind: Literal["sgd", "adamw", "muon"] = "sgd"
    """`muon` trains the convolutions of the features with Muon, and all else with SGD."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Weight decay of convolutions and linear layers; norms and biases have none."""
    bias_scale: float = Field(default=1.0, gt=0)
    """Factor of the learning rate of norms and biases."""
    muon_peak: float = Field(default=0.05, gt=0)
    """Peak rate of the convolutions under `muon`."""
    muon_momentum: float = Field(default=0.6, ge=0, lt=1)


class Recipe(RecipeFile):
    """All options of a training run except its data, seed and device."""

    folder = RECIPES

    data: str
    """Name of the data set that it is made for, or `folder`."""
    network: NetworkOptions
    epochs: int = Field(ge=1)
    batch_size: int = Field(ge=2)
    schedule: Schedule
    optimizer: Optimizer = Optimizer()
    augmentation: Augmentation = Augmentation()
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    distillation_temperature: float = Field(default=2.0, gt=0)
    """Divisor of logits when training on the predictions of teachers."""
    validation: float = Field(default=0.1, gt=0, lt=1)
    """Share of the training images that is held out to choose the epoch and calibrate."""
    validation_seed: int | None = Field(default=None, ge=0)
    """Seed of that choice of images; None is the seed of the run. Runs with several seeds can be
    compared on the same images by it."""
    ema_decay: float = Field(default=0.0, ge=0, lt=1)
    """Decay per step of the EMA weights, which are evaluated and kept; 0 keeps the last weights.

    Averaging begins with the SWA phase of the schedule, or at once if there is none. In the first
    1 / (1 - decay) steps all weights count the same. BatchNorm statistics are measured again
    after each epoch.
    """
    patience: int = Field(default=0, ge=0)
    """Epochs without a better one after which training ends; 0 trains to the end."""
    class_weights: bool = False
    """Weight each class by the inverse of its frequency."""
    freeze_epochs: int = Field(default=0, ge=0)
    """Additional first epochs that train only the head, with a schedule of their own."""
    bn_freeze: bool = False
    """Keep the statistics of BatchNorm layers in the features."""

    def split_seed(self, seed: int) -> int:
        """Return the seed by which validation images are held out, in a run with `seed`."""
        return seed if self.validation_seed is None else self.validation_seed


def recipe_names() -> list[str]:
    """List the recipes of this package, sorted by name."""
    return Recipe.names()
