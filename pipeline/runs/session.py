"""Training of a run from its plan to its result, with what a person sees of it."""

from collections.abc import Sequence
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import Protocol

from pipeline.console import next_command, say
from pipeline.data.reading_options import ImageProgress
from pipeline.data.registry import DATASETS
from pipeline.errors import RunError
from pipeline.progress_bars import reading_bar
from pipeline.runs.introduction import introduction
from pipeline.runs.run import Run, read_run
from pipeline.runs.run_claim import claimed
from pipeline.runs.run_folder import CONFIG
from pipeline.runs.run_plan import RunPlan
from pipeline.runs.tracking import tracker
from pipeline.runs.training_display import training_bar
from pipeline.training.activation_stats import ActivationStatistics
from pipeline.training.callbacks import Callback
from pipeline.training.device import choose_device
from pipeline.training.distributed import World, joined


class Plan(Protocol):
    """Plans a run."""

    def __call__(self, *, world: World, progress: ImageProgress) -> RunPlan:
        """Plan it for the processes that train together; tell how many images were read."""


def new_folder(source: str, out: str | Path | None = None) -> Path:
    """Return the folder of a new run: `out`, or runs/NAME-TIME.

    Raises:
        RunError: the folder is among the images of `source`, which it would become a class of.
    """
    path = Path(source).resolve()
    name = source if source in DATASETS else path.stem if path.is_file() else path.name
    folder = Path(out) if out else Path("runs") / f"{name}-{datetime.now():%Y%m%d-%H%M%S}"
    if source not in DATASETS and path.is_dir() and folder.resolve().is_relative_to(path):
        raise RunError(
            f"the run would be among the images, in {folder}: name a folder outside of {path} "
            "with --out"
        )
    return folder


class Session:
    """Training of one run: it plans, introduces the plan, draws bars, and trains.

    Args:
        folder: the run folder.
        new: a run begins, which another one may not be in the way of.
        device: `auto`, `cpu` or `cuda`.
        track: the names of trackers.
        quiet: draw and print nothing.

    """

    def __init__(
        self,
        folder: Path,
        *,
        device: str | None,
        track: Sequence[str],
        quiet: bool,
        new: bool = True,
    ) -> None:
        self._folder, self._track, self._quiet, self._new = folder, track, quiet, new
        self._device = choose_device(device or "auto")

    def run(self, plan_in: Plan, callbacks: Sequence[Callback] = ()) -> Run:
        """Plan the run, and train it.

        Raises:
            PipelineError: see `plan_training`, `RunPlan.train` and `tracker`.

        """
        with ExitStack() as stack:
            world = stack.enter_context(joined(self._device))
            for name in self._track if world.leads else ():
                tracker(name, self._folder, {})  # which refuses what is missing
            if world.leads:
                stack.enter_context(claimed(self._folder, new=self._new))
            quiet = self._quiet or not world.leads
            with reading_bar(quiet=quiet) as progress:
                plan = plan_in(world=world, progress=progress)
            trainer = plan.trainer(world)
            activations = ActivationStatistics()
            observers: list[Callback] = []
            if not quiet:
                for line in introduction(plan):
                    say(line)
                observers.append(stack.enter_context(training_bar()))
            if world.leads:
                fields = plan.config.model_dump(mode="json")
                observers += [
                    tracker(name, self._folder, fields, activations) for name in self._track
                ]
            watching = {"activations": activations}
            try:
                plan.train(
                    self._folder, [*observers, *callbacks], watching=watching, trainer=trainer
                )
            except KeyboardInterrupt:
                if not quiet and (self._folder / CONFIG).is_file():
                    resume = next_command("limelight", "train", "--resume", self._folder)
                    say(f"to continue: {resume}")
                raise
            world.wait()
        return read_run(self._folder, data=plan.data)
