"""A text that is learned in seconds, and recipes for it."""

import random
from pathlib import Path

from pipeline.text.recipe import TextRecipe

WORDS = ("truth", "woman", "philosopher", "spirit", "morality", "power", "the", "of", "and", "is")


def write_verses(folder: Path, words: int = 2500) -> Path:
    """Write some 15 kB of random words of a small dictionary."""
    rng = random.Random(0)
    chosen = [rng.choice(WORDS) for _ in range(words)]
    lines = (" ".join(chosen[start : start + 8]) for start in range(0, words, 8))
    file = folder / "verses.txt"
    file.write_text(".\n".join(lines) + ".\n")
    return file


def small_recipe(name: str, **changes: object) -> TextRecipe:
    """Return the recipe with a small network, a high rate, and few streams."""
    layers = {"network__hidden": 32, "streams": 8, "batch_size": 64}
    schedule = {"schedule": {"kind": "constant", "peak": 1e-2}}
    return TextRecipe.load(name, **(layers | schedule | changes))
