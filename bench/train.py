"""How long training takes to an accuracy: our recipe beside the lesson's Resnet2 and a ResNet-18.

`python -m bench.train` trains each on CIFAR-10, one after the other on the same machine, and notes
when the accuracy on the validation split first reached each mark. The validation split and not the
test set decides, since the clock is stopped by looking at it. Times are of training and validation
together, without loading data; they are summed over epochs, so that what is broken off can be gone
on with by the same command, on the same machine. `--minutes` bounds each.
"""

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from bench.common.machine import cpu_name
from pipeline.callbacks import Callback, Epoch
from pipeline.checkpoint import write_text
from pipeline.device import choose_device, uses_bfloat16
from pipeline.errors import PipelineError
from pipeline.plans import complete_run, plan_run
from pipeline.recipe import Recipe
from pipeline.run_writer import read_epochs
from pipeline.runs import is_finished
from pipeline.training import Record, Trainer

MARKS = (0.823, 0.849, 0.94, 0.96)
"""The lesson's Resnet and Resnet2, and the usual targets of the field."""
_MACHINE = "machine.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Contestant:
    """A recipe, and how many epochs its schedule has."""

    name: str
    recipe: str
    changes: Mapping[str, object]

    def load(self) -> Recipe:
        """All are validated on the same 5,000 images."""
        return Recipe.load(self.recipe, **{"validation": 0.1, **self.changes})


CONTESTANTS = (
    Contestant(name="ours, 5 epochs", recipe="cifar10", changes={"epochs": 5}),
    Contestant(name="the lesson's Resnet2", recipe="resnet2", changes={}),
    Contestant(
        name="ResNet-18",
        recipe="cifar10",
        changes={
            "epochs": 16,
            "network": {"architecture": "torchvision:resnet18"},
            "optimizer": {"kind": "sgd", "weight_decay": 5e-4},
            "batch_size": 256,
        },
    ),
    Contestant(
        name="ours, 36 epochs and a tail of 22",
        recipe="cifar10",
        changes={
            "epochs": 58,
            "optimizer__muon_momentum": 0.9,
            "optimizer__muon_peak": 0.025,
            "schedule__tail": 0.3793,
            "average": 0.999,
        },
    ),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """When a contestant reached each mark, in seconds; None where it did not."""

    name: str
    epochs: int
    planned: int
    best: float
    seconds: float
    reached: dict[str, float | None]

    @classmethod
    def of(cls, name: str, epochs: Sequence[Epoch], planned: int) -> "Result":
        """What came of so many epochs, of those that were planned."""
        seconds, reached = 0.0, dict.fromkeys(f"{mark:.1%}" for mark in MARKS)
        for epoch in epochs:
            seconds += epoch.seconds
            for mark in MARKS:
                if reached[f"{mark:.1%}"] is None and epoch.validation_accuracy >= mark:
                    reached[f"{mark:.1%}"] = seconds
        return cls(
            name=name,
            epochs=len(epochs),
            planned=planned,
            best=max((epoch.validation_accuracy for epoch in epochs), default=0.0),
            seconds=seconds,
            reached=reached,
        )


class _OutOfTimeError(Exception):
    pass


class _Clock(Callback):
    """Shows each epoch, and stops a training whose time is over, once its state is saved."""

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s

    def end_epoch(self, trainer: Trainer, record: Record) -> None:
        seconds = sum(epoch.seconds for epoch in record.epochs)
        accuracy = record.epochs[-1].validation_accuracy
        print(f"  epoch {trainer.epoch}: {accuracy:.2%} after {seconds:.0f} s", flush=True)
        if seconds >= self._limit_s and trainer.epoch < trainer.epochs:
            raise _OutOfTimeError


def measure(
    contestant: Contestant, folder: Path, device: torch.device, *, minutes: float, seed: int
) -> Result:
    """Train one contestant in `folder` until its schedule or its time is over.

    Raises:
        PipelineError: see `plan_run` and `complete_run`.

    """
    recipe = contestant.load()
    spent_s = sum(epoch.seconds for epoch in read_epochs(folder))
    if is_finished(folder) or spent_s < 60 * minutes:
        plan = plan_run(
            recipe.data, recipe_name=contestant.recipe, recipe=recipe, seed=seed, device=device
        )
        with contextlib.suppress(_OutOfTimeError):
            complete_run(plan, folder, [_Clock(60 * minutes)])
    return Result.of(contestant.name, read_epochs(folder), recipe.epochs)


def stay_on_machine(folder: Path, machine: dict[str, object]) -> None:
    """Note in `folder` where its contestants are trained.

    Raises:
        PipelineError: they were begun elsewhere, so that times would not compare.

    """
    file = folder / _MACHINE
    if not file.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        write_text(file, json.dumps(machine) + "\n")
    elif (begun := json.loads(file.read_text())) != machine:
        raise PipelineError(
            f"{folder} was begun on another machine ({begun}), whose times do not compare with "
            f"this one's ({machine}); choose another --out"
        )


def as_markdown(results: Sequence[Result]) -> str:
    """Return the table."""
    marks = [f"{mark:.1%}" for mark in MARKS]
    lines = [
        f"| network | {' | '.join(marks)} | best | epochs | all of it |",
        "|---|" + "---|" * (len(marks) + 3),
    ]
    for result in results:
        times = (result.reached[mark] for mark in marks)
        reached = " | ".join("not reached" if s is None else _shown(s) for s in times)
        over = "" if result.epochs == result.planned else f" of {result.planned} (out of time)"
        lines.append(
            f"| {result.name} | {reached} | {result.best:.2%} | {result.epochs}{over} | "
            f"{_shown(result.seconds)} |"
        )
    return "\n".join(lines) + "\n"


def _shown(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds >= 100 else f"{seconds:.3g} s"


def main() -> None:
    """Train them all, print the table and write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=150, help="at most, for each")
    parser.add_argument("--only", nargs="*", help="names of contestants")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/bench-train"), help="folder of the runs"
    )
    parser.add_argument("--to", type=Path, default=Path("build"), help="folder of both files")
    arguments = parser.parse_args()
    device = choose_device(arguments.device)
    cuda = device.type == "cuda"
    machine = {
        "machine": torch.cuda.get_device_name()
        if cuda
        else f"{cpu_name()}, {len(os.sched_getaffinity(0))} cores",
        "bfloat16": uses_bfloat16(device),
        "threads": torch.get_num_threads(),
    }
    results: list[Result] = []
    try:
        stay_on_machine(arguments.out, machine)
        for contestant in CONTESTANTS:
            if arguments.only and contestant.name not in arguments.only:
                continue
            print(contestant.name, flush=True)
            folder = arguments.out / contestant.name.replace(",", "").replace(" ", "-")
            result = measure(
                contestant, folder, device, minutes=arguments.minutes, seed=arguments.seed
            )
            results.append(result)
    except PipelineError as error:
        sys.exit(f"error: {error}")
    table = as_markdown(results)
    report = machine | {
        "seed": arguments.seed,
        "results": [asdict(result) for result in results],
    }
    arguments.to.mkdir(parents=True, exist_ok=True)
    (arguments.to / "train.json").write_text(json.dumps(report, indent=2) + "\n")
    (arguments.to / "train.md").write_text(f"{machine['machine']}.\n\n{table}")
    print(table)


if __name__ == "__main__":
    main()
