"""Recipes of the character language models, one TOML file each in `pipeline/text/recipes/`."""

from pathlib import Path

from pydantic import Field

from models.text.options import TextOptions
from pipeline.text.corpus import VALIDATION
from pipeline.training.optimization.schedules import Schedule
from pipeline.training.recipe_file import RecipeFile


class TextRecipe(RecipeFile):
    """All options of a training run except its text, seed and device."""

    folder = Path(__file__).parent / "recipes"

    network: TextOptions
    epochs: int = Field(ge=1)
    schedule: Schedule
    streams: int = Field(default=64, ge=1)
    """Parallel streams that a recurrent network reads the text in."""
    bptt: int = Field(default=8, ge=1)
    """Characters of a batch, after which the history is cut."""
    jitter: bool = False
    """Cut at random places around `bptt`, elsewhere in each epoch."""
    batch_size: int = Field(default=512, ge=1)
    """Windows a batch, for the networks that see a fixed number of characters."""
    clip: float = Field(default=0.0, ge=0)
    """Largest norm of the gradient (Pascanu et al., 2013); 0 does not clip."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Weight decay of Adam, added to the gradient."""
    ema_decay: float = Field(default=0.0, ge=0, lt=1)
    """Decay per step of the EMA weights, which are evaluated and kept; 0 keeps the last weights."""
    validation: float = Field(default=VALIDATION, gt=0, lt=1)
    """Share of the text, at its end, that validates."""
