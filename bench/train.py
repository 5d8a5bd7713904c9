"""Time that training takes to an accuracy: our recipe, the lesson's Resnet2 and a ResNet-18.

`python -m bench.train` trains each on CIFAR-10, one after the other on the same machine, and notes
when the accuracy on the validation split first reached each mark. The validation split and not the
test set decides, since the clock is stopped by looking at it. Times are of training and validation
together, without loading data; they are summed over epochs, so that what is broken off can be gone
on with by the same command, on the same machine. `--minutes` bounds each.
"""

import argparse
import contextlib
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from bench.common.machine import cpu_name
from bench.common.report import Report
from pipeline.atomic_files import write_text
from pipeline.errors import PipelineError
from pipeline.runs.run_folder import is_finished, read_epochs
from pipeline.runs.run_plan import complete_run, plan_run
from pipeline.training.callbacks import Callback
from pipeline.training.device import choose_device, uses_bfloat16
from pipeline.training.recipe import Recipe
from pipeline.training.record import Epoch, Record
from pipeline.training.trainer import Trainer

MARKS = (0.823, 0.849, 0.94, 0.96)
"""The lesson's Resnet and Resnet2, and the usual targets of the field."""
_MACHINE = "machine.json"


@dataclass(frozen=True, slots=True)
class Contestant:
    """A recipe with changes to it."""

    name: str
    recipe: str
    changes: Mapping[str, object]

    def load(self) -> Recipe:
        """The recipe; all are validated on the same 5,000 images."""
        return Recipe.load(self.recipe, **{"validation": 0.1, **self.changes})


_RESNET_18 = {
    "epochs": 16,
    "network": {"architecture": "torchvision:resnet18"},
    "optimizer": {"kind": "sgd", "weight_decay": 5e-4},
    "batch_size": 256,
}
_LONG = {
    "epochs": 58,
    "optimizer__muon_momentum": 0.9,
    "optimizer__muon_peak": 0.025,
    "schedule__swa_fraction": 0.3793,
    "ema_decay": 0.999,
}
CONTESTANTS = (
    Contestant("ours, 5 epochs", "cifar10", {"epochs": 5}),
    Contestant("the lesson's Resnet2", "resnet2", {}),
    Contestant("ResNet-18", "cifar10", _RESNET_18),
    Contestant("ours, 36 epochs and a tail of 22", "cifar10", _LONG),
)


@dataclass(frozen=True, slots=True)
class Result:
    """Seconds after which a contestant reached each mark; None where it did not."""

    name: str
    epochs: int
    planned: int
    best: float
    seconds: float
    reached: dict[str, float | None]

    @classmethod
    def of(cls, name: str, epochs: Sequence[Epoch], planned: int) -> "Result":
        """Read the epochs that were trained, of those that were planned."""
        seconds, reached = 0.0, dict.fromkeys(f"{mark:.1%}" for mark in MARKS)
        for epoch in epochs:
            seconds += epoch.seconds
            for mark in MARKS:
                if reached[f"{mark:.1%}"] is None and epoch.validation_accuracy >= mark:
                    reached[f"{mark:.1%}"] = seconds
        best = max((epoch.validation_accuracy for epoch in epochs), default=0.0)
        return cls(name, len(epochs), planned, best, seconds, reached)

    def row(self) -> tuple[str, ...]:
        """Cells of the table."""
        times = ("not reached" if s is None else _shown(s) for s in self.reached.values())
        over = "" if self.epochs == self.planned else f" of {self.planned} (out of time)"
        return self.name, *times, f"{self.best:.2%}", f"{self.epochs}{over}", _shown(self.seconds)


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
    recipe, name = contestant.load(), contestant.recipe
    spent_s = sum(epoch.seconds for epoch in read_epochs(folder))
    if is_finished(folder) or spent_s < 60 * minutes:
        plan = plan_run(recipe.data, recipe_name=name, recipe=recipe, seed=seed, device=device)
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


def _shown(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds >= 100 else f"{seconds:.3g} s"


def main() -> int:
    """Train them all, print the table and write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    names = [contestant.name for contestant in CONTESTANTS]
    parser.add_argument("--minutes", type=float, default=150, help="at most, for each")
    parser.add_argument("--only", nargs="*", choices=names, default=names)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, default=Path("runs/bench-train"), help="for the runs")
    parser.add_argument("--to", type=Path, default=Path("build"), help="folder of the report")
    given = parser.parse_args()
    device = choose_device(given.device)
    cuda = device.type == "cuda"
    machine: dict[str, object] = {
        "machine": torch.cuda.get_device_name() if cuda else cpu_name(),
        "bfloat16": uses_bfloat16(device),
        "threads": torch.get_num_threads(),
    }
    results: list[Result] = []
    try:
        stay_on_machine(given.out, machine)
        for contestant in (each for each in CONTESTANTS if each.name in given.only):
            print(contestant.name, flush=True)
            folder = given.out / contestant.name.replace(",", "").replace(" ", "-")
            minutes, seed = given.minutes, given.seed
            results.append(measure(contestant, folder, device, minutes=minutes, seed=seed))
    except PipelineError as error:
        sys.exit(f"error: {error}")
    report = Report("train", machine | {"seed": given.seed}, gpu=cuda)
    report.measurements["results"] = [asdict(result) for result in results]
    heads = ("network", *(f"{mark:.1%}" for mark in MARKS), "best", "epochs", "all of it")
    report.add_table("Time to an accuracy", heads, [result.row() for result in results])
    return report.finish(given.to)


if __name__ == "__main__":
    sys.exit(main())
