"""What watching the activations costs a training.

`python -m bench.activation_cost` takes steps of the mnist and the cifar10 recipe on random images,
all of them watched or none, in alternating order. A training watches one batch in ten, so that its
share of the time is a tenth of what these steps take longer: printed are its median and spread.
"""

import argparse
import statistics
import time
from collections.abc import Sequence

import numpy as np
import torch

from models.normalization import Normalisation
from pipeline.data.registry import DIGITS, Split
from pipeline.training.activation_stats import EVERY, ActivationStatistics
from pipeline.training.device import choose_device
from pipeline.training.recipe import Recipe
from pipeline.training.trainer import Trainer

SHAPES = {"mnist": (28, 28, 1), "cifar10": (32, 32, 3)}


def random_split(recipe: Recipe, steps: int, shape: tuple[int, int, int]) -> Split:
    """Images and labels without meaning, for so many steps an epoch."""
    rng = np.random.default_rng(0)
    count = recipe.batch_size * steps
    images = rng.integers(0, 256, (count, *shape), dtype=np.uint8)
    return Split(images, rng.integers(0, len(DIGITS), count))


def make_trainer(recipe: Recipe, fit: Split, device: torch.device) -> Trainer:
    """A training that has not begun."""
    return Trainer(
        recipe,
        fit,
        classes=DIGITS,
        normalisation=Normalisation.of(fit.images),
        device=device,
        seed=0,
    )


def seconds(trainer: Trainer, callbacks: Sequence[ActivationStatistics]) -> float:
    """Train an epoch."""
    started = time.perf_counter()
    for _ in trainer.run_epoch(callbacks):
        pass
    if trainer.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def measure(trainer: Trainer, repeats: int) -> list[float]:
    """Shares of a training's time that watching takes, sorted: (`repeats`,)."""
    watching = ActivationStatistics(every=1)
    watching.begin_training(trainer)
    seconds(trainer, [watching])
    seconds(trainer, [])
    shares = []
    for repeat in range(repeats):
        if repeat % 2:
            plain, watched = seconds(trainer, []), seconds(trainer, [watching])
        else:
            watched, plain = seconds(trainer, [watching]), seconds(trainer, [])
        shares.append((watched / plain - 1) / EVERY)
    return sorted(shares)


def main() -> None:
    """Measure both recipes and print the shares."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipes", nargs="*", default=list(SHAPES))
    parser.add_argument("--steps", type=int, default=4, help="of one timing")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()
    device = choose_device(arguments.device)
    print(f"{device}, {torch.get_num_threads()} threads, {arguments.steps} steps a timing")
    for name in arguments.recipes:
        # Rates at which random labels blow nothing up.
        recipe = Recipe.load(name, schedule__peak=1e-3, optimizer__muon_peak=1e-3)
        fit = random_split(recipe, arguments.steps, SHAPES[name])
        shares = measure(make_trainer(recipe, fit, device), arguments.repeats)
        print(
            f"{name:8} watching takes {statistics.median(shares):.2%} of the time "
            f"({shares[0]:.2%} to {shares[-1]:.2%}, {arguments.repeats} repeats)"
        )


if __name__ == "__main__":
    main()
