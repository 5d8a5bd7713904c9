"""Plan a run, train it, or resume an interrupted one."""

import shlex
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import torch

from models.normalization import Normalisation
from pipeline.atomic_files import write_text
from pipeline.data.reading_options import Reading
from pipeline.data.registry import (
    DATASETS,
    DEFAULT_SIZE,
    Dataset,
    check_unambiguous,
    load_dataset,
    source_at,
)
from pipeline.data.stored_images import in_batches
from pipeline.errors import PipelineError, RunError
from pipeline.runs.run import Run, read_run
from pipeline.runs.run_claim import check_new
from pipeline.runs.run_config import RunConfig, library_versions, read_config
from pipeline.runs.run_data import RunData, split_run_data
from pipeline.runs.run_folder import CONFIG, INITIAL, STATE, TEACHERS, is_finished
from pipeline.runs.run_writer import RunWriter
from pipeline.runs.tensor_files import read_tensors, write_tensors
from pipeline.training.callbacks import Callback
from pipeline.training.device import uses_bfloat16
from pipeline.training.distillation import Teachers
from pipeline.training.distributed import World
from pipeline.training.loop import train
from pipeline.training.recipe import Recipe
from pipeline.training.record import Record
from pipeline.training.small_data import recipe_for
from pipeline.training.step_history import History
from pipeline.training.teacher import Teacher
from pipeline.training.trainer import Trainer
from pipeline.training.weights import Weights

_ASKED_FOR = ("source", "image_size", "data_sha256", "recipe", "seed", "pretrained", "teachers")


@dataclass(frozen=True, slots=True)
class RunPlan:
    """A run that has not begun, or was interrupted, with its data."""

    config: RunConfig
    data: RunData
    device: torch.device
    initial: Weights | None = None
    teachers: Weights = field(default_factory=dict)
    """Weights of the teachers in `config`, named as `Teachers` requires."""
    begun: bool = False
    """True if its folder exists already."""

    @property
    def dataset(self) -> Dataset:
        """The data set that it is trained, validated and tested on."""
        return self.data.dataset

    def with_recipe(self, recipe: Recipe, *, processes: int) -> "RunPlan":
        """Return a plan with the same data and another recipe, whose validation share is equal."""
        changes = {"recipe": recipe, "processes": processes}
        return replace(self, config=self.config.model_copy(update=changes))

    def distilled_from(self, teachers: tuple[Teacher, ...], weights: Weights) -> "RunPlan":
        """Return a plan with teachers, and their weights as `Teachers` requires."""
        config = self.config.model_copy(update={"teachers": teachers})
        return replace(self, config=config, teachers=weights)

    def fitted_to_size(self, keep: Collection[str]) -> "RunPlan":
        """Return the plan with a recipe for the number of images, if they are the user's own.

        `keep` are the options that the user chose, as `recipe_for` names them.
        """
        config = self.config
        if config.source in DATASETS:
            return self
        recipe = recipe_for(
            config.recipe, len(self.data.fit), processes=config.processes, keep=keep
        )
        return replace(self, config=config.model_copy(update={"recipe": recipe}))

    def trainer(self, world: World | None = None) -> Trainer:
        """Make the trainer of the run; nothing is written.

        Raises:
            DataError: there are fewer images than a batch.
            RunError: the options of the recipe contradict each other or the data.

        """
        recipe, teachers = self.config.recipe, None
        if self.config.teachers:
            teachers = Teachers(
                self.config.teachers,
                self.teachers,
                classes=len(self.config.classes),
                temperature=recipe.distillation_temperature,
                device=self.device,
            )
        return Trainer(
            recipe,
            self.data.fit,
            classes=self.config.classes,
            normalisation=self.config.normalisation,
            device=self.device,
            seed=self.config.seed,
            initial=self.initial,
            world=world,
            teachers=teachers,
        )

    def train(
        self,
        folder: Path,
        callbacks: Sequence[Callback] = (),
        *,
        watching: Mapping[str, Callback] | None = None,
        trainer: Trainer | None = None,
    ) -> Record:
        """Train and write the run folder, which is new, or has a state to continue from.

        The states of the callbacks in `watching` are saved with each epoch and become part of the
        history, by their names.

        Raises:
            RunError: `folder` is not empty, or the loss diverges.
            UnwritableError: the run cannot be written, as on a full disk.
            DataError: there are fewer images than a batch.

        """
        trainer = trainer or self.trainer()
        leads = trainer.world.leads
        if leads and not self.begun:
            self._begin(folder)
        writer = RunWriter(folder, {"": History(), **(watching or {})})
        resumes = self.begun and (folder / STATE).is_file()
        record = writer.resume(trainer) if resumes else Record()
        saving = (writer,) if leads else ()
        observers = [*writer.watching.values(), *saving, *callbacks]
        record = train(trainer, self.data.validation, observers, record)
        if leads:
            writer.finish(record)
        return record

    def _begin(self, folder: Path) -> None:
        check_new(folder)
        folder.mkdir(parents=True, exist_ok=True)
        if self.initial is not None:
            write_tensors(folder / INITIAL, self.initial)
        if self.teachers:
            write_tensors(folder / TEACHERS, self.teachers)
        write_text(folder / CONFIG, self.config.model_dump_json(indent=2) + "\n")


def plan_run(
    source: str,
    *,
    recipe_name: str,
    recipe: Recipe,
    seed: int,
    device: torch.device,
    image_size: int | tuple[int, int] | None = DEFAULT_SIZE,
    largest: int = DEFAULT_SIZE,
    normalisation: Normalisation | None = None,
    pretrained: str | None = None,
    processes: int = 1,
    dataset: Dataset | None = None,
    reading: Reading | None = None,
) -> RunPlan:
    """Load `source`, split it and describe the run that is to be.

    `image_size`, `largest` and `reading` are those of `load_dataset`. `dataset` is what `source`
    gave with the same image size, if it was loaded before.

    Raises:
        DataError: the data is missing, corrupt or cannot be split.

    """
    if dataset is None:
        check_unambiguous(source)
        dataset = load_dataset(source, image_size=image_size, largest=largest, reading=reading)
    source = source if source in DATASETS else source_at(Path(source))
    data = split_run_data(dataset, validation=recipe.validation, seed=recipe.split_seed(seed))
    config = RunConfig(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        source=source,
        image_size=(
            (dataset.image.height, dataset.image.width) if image_size is None else image_size
        ),
        image=dataset.image,
        data_sha256=data.sha256,
        classes=dataset.classes,
        recipe_name=recipe_name,
        recipe=recipe,
        seed=seed,
        device=torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        bfloat16=uses_bfloat16(device),
        threads=torch.get_num_threads(),
        processes=processes,
        normalisation=normalisation or _normalisation_of(data),
        pretrained=pretrained,
        libraries=library_versions(),
    )
    return RunPlan(config, data, device)


def _normalisation_of(data: RunData) -> Normalisation:
    if not data.dataset.decoded:  # for a dry run, any will do
        channels = data.dataset.image.channels
        return Normalisation(mean=(0.5,) * channels, std=(0.5,) * channels)
    return Normalisation.of(in_batches(data.fit.images))


def resume_run(
    folder: Path,
    device: torch.device,
    *,
    processes: int = 1,
    data: RunData | None = None,
    moved_to: Path | None = None,
    reading: Reading | None = None,
) -> RunPlan:
    """Plan to continue an interrupted run.

    `data` is the run's data, if the caller has read it already. `moved_to` is where its images are
    now, which is remembered.

    Raises:
        RunError: `folder` is no run, is finished, was begun with another number of processes, or
            its data has changed.
        UnwritableError: the place of its images cannot be noted.

    """
    config = read_config(folder)
    if config.processes != processes:
        raise RunError(
            f"{folder} was begun with {config.processes} processes and cannot continue with "
            f"{processes}; start it with torchrun --nproc-per-node {config.processes}"
        )
    if is_finished(folder):
        raise RunError(
            f"{folder} is finished; next: limelight export {shlex.quote(str(folder))}, or train it "
            "for N more epochs with --epochs N"
        )
    if data is None:
        data = config.read_data(moved_to=moved_to, reading=reading)
    if moved_to is not None:
        config = config.model_copy(update={"source": source_at(moved_to)})
        write_text(folder / CONFIG, config.model_dump_json(indent=2) + "\n")
    config.check(data)
    initial = read_tensors(folder / INITIAL)[0] if (folder / INITIAL).is_file() else None
    teachers = read_tensors(folder / TEACHERS)[0] if config.teachers else {}
    # The rounding of sums depends on the number of threads.
    torch.set_num_threads(config.threads)
    return RunPlan(config, data, device, initial, teachers, begun=True)


def complete_run(
    plan: RunPlan,
    folder: Path,
    callbacks: Sequence[Callback] = (),
    *,
    watching: Mapping[str, Callback] | None = None,
) -> Run:
    """Train `plan` in `folder`, or the rest of it, unless that was done before; read the run.

    Raises:
        PipelineError: `folder` has a run with other options or data.
        RunError: `folder` is not empty, or the loss diverges.
        UnwritableError: a file of the run cannot be written, as on a full disk.
        DataError: there are fewer images than a batch.

    """
    if not (folder / CONFIG).is_file():
        plan.train(folder, callbacks, watching=watching)
        return read_run(folder, data=plan.data)
    found = read_config(folder)
    for name in _ASKED_FOR:
        if getattr(found, name) != getattr(plan.config, name):
            raise PipelineError(
                f"{folder} has a run with another {name.replace('_', ' ')}; choose another --out, "
                "or remove it"
            )
    if not is_finished(folder):
        rest = resume_run(folder, plan.device, data=plan.data)
        rest.train(folder, callbacks, watching=watching)
    return read_run(folder, data=plan.data)
