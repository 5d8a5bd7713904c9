"""How long training takes to an accuracy: our recipe beside the lesson's Resnet2 and a ResNet-18.

`python -m bench.train` trains each on CIFAR-10, one after the other on the same machine, and notes
when the accuracy on the validation split first reached each mark; `--minutes` bounds each. The
validation split and not the test set decides, since the clock is stopped by looking at it. Times
are of training and validation together, without loading data.
"""

import argparse
import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from bench.serving.machine import cpu_name
from pipeline.callbacks import Batch, Callback
from pipeline.datasets import load_dataset, split_validation
from pipeline.device import choose_device, uses_bfloat16
from pipeline.normalisation import Normalisation
from pipeline.recipe import Recipe
from pipeline.training import Record, Trainer, train

MARKS = (0.823, 0.849, 0.94)
"""The lesson's Resnet and Resnet2, and the usual target of the field."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Contestant:
    """A recipe, and how many epochs its schedule has."""

    name: str
    recipe: str
    changes: dict[str, object]


CONTESTANTS = (
    Contestant(name="ours, 5 epochs", recipe="cifar10", changes={"epochs": 5}),
    Contestant(name="ours", recipe="cifar10", changes={}),
    Contestant(name="the lesson's Resnet2", recipe="resnet2", changes={}),
    Contestant(
        name="ResNet-18",
        recipe="cifar10",
        changes={
            "network": {"architecture": "torchvision:resnet18"},
            "optimizer": {"kind": "sgd", "weight_decay": 5e-4},
            "batch_size": 256,
        },
    ),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """When a contestant reached each mark, in seconds; None where it did not."""

    name: str
    epochs: int
    finished: bool
    best: float
    seconds: float
    reached: dict[str, float | None]


class _OutOfTimeError(Exception):
    pass


class _Clock(Callback):
    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._started = time.perf_counter()
        self.accuracies: list[tuple[float, float]] = []

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self._started

    def end_batch(self, trainer: Trainer, batch: Batch) -> None:
        if self.seconds > self._limit_s:
            raise _OutOfTimeError

    def end_epoch(self, trainer: Trainer, record: Record) -> None:
        accuracy = record.epochs[-1].validation_accuracy
        self.accuracies.append((self.seconds, accuracy))
        print(f"  epoch {trainer.epoch}: {accuracy:.2%} after {self.seconds:.0f} s", flush=True)


def measure(contestant: Contestant, device: torch.device, *, minutes: float, seed: int) -> Result:
    """Train one contestant until its schedule or its time is over."""
    recipe = Recipe.load(contestant.recipe, validation=0.1, **contestant.changes)
    dataset = load_dataset("cifar10")
    fit, validation = split_validation(dataset.train, recipe.validation, seed)
    trainer = Trainer(
        recipe,
        fit,
        classes=dataset.classes,
        normalisation=Normalisation.of(fit.images),
        device=device,
        seed=seed,
    )
    clock, finished = _Clock(60 * minutes), True
    try:
        train(trainer, validation, [clock])
    except _OutOfTimeError:
        finished = False
    return Result(
        name=contestant.name,
        epochs=len(clock.accuracies),
        finished=finished,
        best=max((accuracy for _, accuracy in clock.accuracies), default=0.0),
        seconds=clock.seconds,
        reached={
            f"{mark:.1%}": next((s for s, found in clock.accuracies if found >= mark), None)
            for mark in MARKS
        },
    )


def as_markdown(results: list[Result]) -> str:
    """The table."""
    marks = [f"{mark:.1%}" for mark in MARKS]
    lines = [
        f"| network | {' | '.join(marks)} | best | epochs | all of it |",
        "|---|" + "---|" * (len(marks) + 3),
    ]
    for result in results:
        times = (result.reached[mark] for mark in marks)
        reached = " | ".join("not reached" if s is None else f"{s:.0f} s" for s in times)
        over = "" if result.finished else " (out of time)"
        lines.append(
            f"| {result.name} | {reached} | {result.best:.2%} | {result.epochs}{over} | "
            f"{result.seconds:.0f} s |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Train them all, print the table and write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60, help="at most, for each")
    parser.add_argument("--only", nargs="*", help="names of contestants")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--to", type=Path, default=Path("build"), help="folder of both files")
    arguments = parser.parse_args()
    device = choose_device(arguments.device)
    results: list[Result] = []
    for contestant in CONTESTANTS:
        if arguments.only and contestant.name not in arguments.only:
            continue
        print(contestant.name, flush=True)
        results.append(measure(contestant, device, minutes=arguments.minutes, seed=arguments.seed))
        machine = (
            torch.cuda.get_device_name()
            if device.type == "cuda"
            else f"{cpu_name()}, {len(os.sched_getaffinity(0))} cores"
        )
        report = {
            "machine": machine,
            "bfloat16": uses_bfloat16(device),
            "seed": arguments.seed,
            "results": [asdict(result) for result in results],
        }
        arguments.to.mkdir(parents=True, exist_ok=True)
        (arguments.to / "train.json").write_text(json.dumps(report, indent=2) + "\n")
        (arguments.to / "train.md").write_text(f"{machine}.\n\n{as_markdown(results)}")
    print(as_markdown(results))


if __name__ == "__main__":
    main()
