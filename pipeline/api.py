"""`train`, `finetune`, `lr_find` and `export` from Python: the command line calls the same.

>>> from pipeline import export, train
>>> run = train("photos", epochs=10)
>>> folder = export(run, to="artifacts")
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Unpack

from limelight.artifact.manifest import MANIFEST_FILE
from limelight.artifact.store import newest_version
from pipeline.console import say
from pipeline.data.reading_options import ImageProgress, Reading
from pipeline.data.registry import source_at
from pipeline.errors import PipelineError, RunError
from pipeline.evaluation.ood_datasets import kinds_missing
from pipeline.progress_bars import reading_bar, step_bar
from pipeline.runs.choices import Choices
from pipeline.runs.exported import rebuild_run
from pipeline.runs.plan_from_choices import next_folder, plan_finetuning, plan_longer, plan_training
from pipeline.runs.run import Run, read_run
from pipeline.runs.run_folder import CONFIG, is_finished
from pipeline.runs.run_plan import RunPlan, resume_run
from pipeline.runs.session import Session, new_folder
from pipeline.training.callbacks import Callback
from pipeline.training.device import choose_device
from pipeline.training.distributed import World
from pipeline.training.lr_finder import STEPS, RateCurve, find_rate
from pipeline.training.optimization.schedules import Rates
from pipeline.training.recipe import Recipe

ONNX_SUFFIX = ".onnx"


def train(
    source: str | Path,
    *,
    out: str | Path | None = None,
    arch: str | None = None,
    pretrained: bool = False,
    weights: str | Path | None = None,
    track: Sequence[str] = (),
    callbacks: Sequence[Callback] = (),
    quiet: bool = False,
    **choices: Unpack[Choices],
) -> Run:
    """Train a classifier, write a run folder, and return the run.

    Args:
        source: name of a data set, folder of images by class, or CSV file of paths and labels;
            a `Path` is never a name.
        out: the run folder; by default runs/NAME-TIME.
        arch: another architecture than the recipe's, such as `timm:resnet10t`.
        pretrained: initialise from the weights that torchvision publishes.
        weights: file of weights of timm or torchvision to initialise the features from.
        track: also write to `tensorboard` or `mlflow`.
        callbacks: observe the training.
        quiet: draw no bars, and print nothing.
        choices: the other options; see `Choices`.

    Raises:
        PipelineError: an option or the data is invalid, the folder is not empty, or the loss
            diverges.

    """
    plan = partial(
        plan_training,
        _source(source),
        arch=arch,
        pretrained=pretrained,
        weights=Path(weights) if weights else None,
        **choices,
    )
    folder = new_folder(_source(source), out)
    session = Session(folder, device=choices.get("device"), track=track, quiet=quiet)
    return session.run(plan, callbacks)


def finetune(
    source: str | Path,
    *,
    pretrained: str | Path,
    out: str | Path | None = None,
    freeze_epochs: int | None = None,
    bn_freeze: bool | None = None,
    track: Sequence[str] = (),
    callbacks: Sequence[Callback] = (),
    quiet: bool = False,
    **choices: Unpack[Choices],
) -> Run:
    """Fine-tune a pretrained model on new classes: the head first, then all; return the run.

    Args:
        source: as for `train`.
        pretrained: an artefact, a model's folder of artefacts, or a run folder.
        out: as for `train`.
        freeze_epochs: epochs that train only the head.
        bn_freeze: keep the statistics of the model's BatchNorm layers.
        track: as for `train`.
        callbacks: as for `train`.
        quiet: as for `train`.
        choices: the other options; see `Choices`.

    Raises:
        PipelineError: as for `train`, or the model does not fit the data.

    """
    plan = partial(
        plan_finetuning,
        _source(source),
        pretrained=Path(pretrained),
        freeze_epochs=freeze_epochs,
        bn_freeze=bn_freeze,
        **choices,
    )
    folder = new_folder(_source(source), out)
    session = Session(folder, device=choices.get("device"), track=track, quiet=quiet)
    return session.run(plan, callbacks)


def resume(
    run: str | Path,
    *,
    epochs: int | None = None,
    out: str | Path | None = None,
    data: str | Path | None = None,
    device: str | None = None,
    workers: int | None = None,
    track: Sequence[str] = (),
    callbacks: Sequence[Callback] = (),
    quiet: bool = False,
) -> Run:
    """Continue an interrupted run, or train a finished one for longer; return the run.

    Args:
        run: the run folder.
        epochs: further epochs of a finished run, which become a run of their own.
        out: the folder of that run; by default RUN-2.
        data: where the run's images are now, if they moved.
        device: `auto`, `cpu` or `cuda`.
        workers: processes that decode images.
        track: as for `train`.
        callbacks: as for `train`.
        quiet: as for `train`.

    Raises:
        PipelineError: there is nothing to continue, or its data has changed.

    """
    folder, moved_to, chosen = (
        Path(run),
        Path(data) if data else None,
        choose_device(device or "auto"),
    )

    def plan(*, world: World, progress: ImageProgress) -> RunPlan:
        reading = Reading(workers=workers, progress=progress)
        if epochs is not None:
            return plan_longer(
                folder, epochs, data=moved_to, device=chosen, world=world, reading=reading
            )
        return resume_run(folder, chosen, processes=world.size, moved_to=moved_to, reading=reading)

    into, longer = folder, epochs is not None and is_finished(folder)
    if longer:
        into = Path(out) if out else next_folder(folder)
    elif out is not None:
        raise RunError(f"{folder} is continued where it is: leave out --out")
    session = Session(into, device=device, track=track, quiet=quiet, new=longer)
    return session.run(plan, callbacks)


@dataclass(frozen=True, kw_only=True, slots=True)
class FoundRate:
    """Result of `lr_find`."""

    rates: Rates
    """Suggested peak rate, or one for each layer group: the `lr` to train with."""
    curve: RateCurve
    plan: RunPlan
    """Plan of a training with these rates, on the data that was read."""

    def train(self, *, out: str | Path | None = None, quiet: bool = False) -> Run:
        """Train with these rates, and return the run.

        Raises:
            PipelineError: as for `train`.

        """
        folder = new_folder(self.plan.config.source, out)
        session = Session(folder, device=self.plan.device.type, track=(), quiet=quiet)
        return session.run(lambda *, world, progress: self.plan)


def lr_find(
    source: str | Path, *, steps: int = STEPS, quiet: bool = False, **choices: Unpack[Choices]
) -> FoundRate:
    """Suggest a peak learning rate by a short run with a rising rate.

    Args:
        source: as for `train`.
        steps: number of steps, from a rate of 1e-7 to 10.
        quiet: as for `train`.
        choices: the other options; see `Choices`.

    Raises:
        PipelineError: an option or the data is invalid, or the loss does not fall.

    """
    with reading_bar(quiet=quiet) as progress:
        plan = plan_training(_source(source), progress=progress, **choices)
    recipe = plan.config.recipe
    whole = plan.with_recipe(recipe.but(freeze_epochs=0), processes=1)
    curve = find_rate(whole.trainer(), steps=steps)
    rates = scaled_rates(recipe, curve.suggestions["valley"])
    tuned = plan.with_recipe(recipe.but(schedule__peak=rates), processes=1)
    return FoundRate(rates=rates, curve=curve, plan=tuned)


def export(
    run: Run | str | Path,
    to: str | Path = "artifacts",
    *,
    name: str | None = None,
    layercam: bool = True,
    fp16: bool = False,
    int8: bool = False,
    data: str | Path | None = None,
    workers: int | None = None,
    quiet: bool = False,
) -> Path:
    """Export a run, verified, as the next version of an artefact, and return its folder or file.

    Args:
        run: a run, its folder, or an artefact to export again.
        to: folder of artefacts; or a file `NAME.onnx`, for the graph alone.
        name: the model's name; by default from the data.
        layercam: add LayerCAM maps, which are expensive, in a separate graph.
        fp16: also export a float16 graph, which the service uses on a GPU.
        int8: also export an int8 graph, which the service uses on a CPU where it is faster.
        data: where the run's images are now, if they moved.
        workers: processes that decode images.
        quiet: as for `train`.

    Raises:
        GateError: a format does not agree with eager torch, the int8 graph is less accurate, or the
            maps say nothing.
        PipelineError: the run cannot be read, or its data has changed.

    """
    # ONNX and what converts to it take seconds to import, and training needs none of them.
    from pipeline.exporting.export import export as export_run
    from pipeline.exporting.plain_onnx import export_onnx

    with reading_bar(quiet=quiet) as progress:
        reading = Reading(workers=workers, progress=progress)
        if isinstance(run, Run) and data is not None:
            run = run.folder
        found = run if isinstance(run, Run) else _read(Path(run), data, reading)
        if Path(to).suffix.lower() == ONNX_SUFFIX:
            if name is not None or fp16 or int8:
                raise PipelineError(
                    f"{to} is one float32 graph: leave out --name, --fp16 and --int8, or export to "
                    "a folder"
                )
            return export_onnx(found, Path(to))
        _ = found.data  # read while the bar for it is there
    if not quiet:
        _name_missing_data(found)
    with step_bar(quiet=quiet) as steps:
        return export_run(
            found, Path(to), name=name, layercam=layercam, fp16=fp16, int8=int8, progress=steps
        )


def _source(source: str | Path) -> str:
    return source if isinstance(source, str) else source_at(source)


def _read(path: Path, data: str | Path | None, reading: Reading) -> Run:
    if (path / CONFIG).is_file() or not (newest_version(path) / MANIFEST_FILE).is_file():
        return read_run(path, moved_to=Path(data) if data else None, reading=reading)
    if data is not None:
        raise PipelineError(
            f"{path} is an artefact, and does not know its images: leave out --data"
        )
    return rebuild_run(path)


def _name_missing_data(run: Run) -> None:
    """Name the data sets that the evaluation on out-of-distribution images would have."""
    missing = kinds_missing(run.config.source)
    if missing:
        say(
            f"{' and '.join(missing)} missing for the evaluation on out-of-distribution images; "
            "to include them, fetch them first: "
            + "; ".join(f"limelight data fetch {kind}" for kind in missing)
        )


def scaled_rates(recipe: Recipe, highest: float) -> Rates:
    """Scale the recipe's peak rates so that the highest is `highest`, to three digits."""
    peak = recipe.schedule.peak
    rates = peak if isinstance(peak, tuple) else (peak,)
    scaled = tuple(float(f"{rate * highest / max(rates):.3g}") for rate in rates)
    return scaled if isinstance(peak, tuple) else scaled[0]
