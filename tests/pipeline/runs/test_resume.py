"""Interrupted runs continue to the same bits, and files stay whole."""

import json
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pipeline.atomic_files import UnwritableError
from pipeline.errors import PipelineError, RunError
from pipeline.runs.run import read_run
from pipeline.runs.run_folder import CHECKPOINT, EPOCHS, HISTORY, STATE
from pipeline.runs.run_plan import RunPlan, complete_run, plan_run, resume_run
from pipeline.runs.run_writer import RunWriter
from pipeline.runs.tensor_files import read_tensors, write_tensors
from pipeline.training.callbacks import Callback
from pipeline.training.recipe import Recipe
from pipeline.training.record import Batch, Epoch, Record
from pipeline.training.trainer import Trainer
from pipeline.training.weights import Weights
from tests.full_disk import file_size_limit
from tests.pipeline.cli.running import limelight, limelight_command
from tests.pipeline.training.small_trainings import CPU

EPOCHS_TRAINED = 4


class SimulatedInterruptError(Exception):
    pass


class StopAt(Callback):
    """Interrupts in the middle of an epoch, or at its end when everything is saved."""

    def __init__(self, *, step: int = 0, epoch: int = 0) -> None:
        self._step, self._epoch = step, epoch

    def end_batch(self, trainer: Trainer, batch: Batch) -> None:
        if batch.step == self._step:
            raise SimulatedInterruptError

    def end_epoch(self, trainer: Trainer, record: Record) -> None:
        if trainer.epoch == self._epoch:
            raise SimulatedInterruptError


def _plan(**changes: object) -> RunPlan:
    # Nine steps an epoch.
    recipe = Recipe.load("digits8", epochs=EPOCHS_TRAINED, batch_size=128, **changes)
    return plan_run("digits8", recipe_name="digits8", recipe=recipe, seed=0, device=CPU)


def _trained(folder: Path, *callbacks: Callback, **changes: object) -> Path:
    plan = _plan(**changes)
    plan.train(folder, callbacks)
    return folder


def _without_times(folder: Path) -> list[dict[str, float]]:
    lines = (folder / EPOCHS).read_text().splitlines()
    return [
        {name: value for name, value in json.loads(line).items() if name != "seconds"}
        for line in lines
    ]


def _same_results(one: Path, other: Path) -> None:
    for name in (CHECKPOINT, HISTORY):
        first, second = load_file(one / name), load_file(other / name)
        assert first.keys() == second.keys()
        for key, value in first.items():
            assert torch.equal(value, second[key]), (name, key)
    assert _without_times(one) == _without_times(other)


@pytest.mark.parametrize(
    ("stop", "changes"),
    [
        (StopAt(step=22), {}),
        (
            StopAt(epoch=2),
            {"optimizer__kind": "muon", "ema_decay": 0.9, "augmentation__flip": "alternating"},
        ),
        (StopAt(epoch=1), {"ema_decay": 0.9, "schedule__swa_fraction": 0.5}),
        (StopAt(epoch=3), {"ema_decay": 0.9, "schedule__swa_fraction": 0.5}),
        (
            StopAt(step=11),
            {"optimizer__kind": "adamw", "schedule__peak": 0.01, "network__dropout": 0.3},
        ),
        (StopAt(step=1), {"network__whiten": True}),
    ],
    ids=[
        "sgd",
        "muon, average, flips",
        "before the average",
        "in the average",
        "adamw, dropout",
        "in the first epoch, whitened",
    ],
)
def test_resumed_run_ends_with_the_same_bits(
    stop: StopAt, changes: dict[str, object], tmp_path: Path
) -> None:
    whole = _trained(tmp_path / "whole", **changes)
    with pytest.raises(SimulatedInterruptError):
        _trained(tmp_path / "interrupted", stop, **changes)
    resume_run(tmp_path / "interrupted", CPU).train(tmp_path / "interrupted")
    _same_results(whole, tmp_path / "interrupted")


def test_killed_process_can_be_resumed(tmp_path: Path) -> None:
    arguments = ("train", "digits8", "--epochs", "4", "--no-report")
    assert limelight(*arguments, "--out", "whole", cwd=tmp_path).returncode == 0
    command, environment = limelight_command(*arguments, "--out", "interrupted", cwd=tmp_path)
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    # Probably while files are being written.
    waited = time.monotonic() + 120
    while not (tmp_path / "interrupted" / STATE).is_file():
        assert process.poll() is None
        assert time.monotonic() < waited
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (tmp_path / "interrupted" / STATE).is_file()
    resumed = limelight("train", "--resume", "interrupted", "--no-report", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    _same_results(tmp_path / "whole", tmp_path / "interrupted")
    again = limelight("train", "--resume", "interrupted", cwd=tmp_path)
    assert again.returncode == 1
    assert "interrupted is finished; next: limelight export interrupted, or" in again.stderr
    longer = limelight(
        "train", "--resume", "interrupted", "--epochs", "1", "--no-report", cwd=tmp_path
    )
    assert longer.stdout.strip() == "interrupted-2"
    refused = limelight(
        "train", "--resume", "interrupted", "--epochs", "1", "--lr", "0.1", cwd=tmp_path
    )
    assert refused.returncode == 1
    assert "continues with the options that the run began with: leave out --lr" in refused.stderr


def test_missing_results_are_written_again_from_the_state(tmp_path: Path) -> None:
    """Interrupt after the state is written, and before the results are."""
    whole = _trained(tmp_path / "whole")
    interrupted = tmp_path / "interrupted"
    with pytest.raises(SimulatedInterruptError):
        _trained(interrupted, StopAt(epoch=EPOCHS_TRAINED))
    for name in (CHECKPOINT, HISTORY, EPOCHS):
        (interrupted / name).unlink()
    resume_run(interrupted, CPU).train(interrupted)
    _same_results(whole, interrupted)
    assert not (interrupted / STATE).exists()
    read_run(interrupted)


def test_complete_run_trains_only_what_is_missing(tmp_path: Path) -> None:
    whole = complete_run(_plan(), tmp_path / "whole")
    with pytest.raises(SimulatedInterruptError):
        complete_run(_plan(), tmp_path / "parts", [StopAt(epoch=2)])
    parts = complete_run(_plan(), tmp_path / "parts")
    _same_results(whole.folder, parts.folder)
    # Training again would raise at every event.
    again = complete_run(_plan(), tmp_path / "parts", [StopAt(step=1), StopAt(epoch=1)])
    assert again.best == parts.best


@pytest.mark.parametrize("change", [{"epochs": 5}, {"optimizer__weight_decay": 0.1}], ids=str)
def test_folder_with_a_run_of_other_options_is_rejected(
    change: dict[str, object], tmp_path: Path
) -> None:
    complete_run(_plan(), tmp_path / "run")
    recipe = Recipe.load("digits8", **({"epochs": EPOCHS_TRAINED} | change))
    other = plan_run("digits8", recipe_name="digits8", recipe=recipe, seed=0, device=CPU)
    with pytest.raises(PipelineError, match="has a run with another recipe; choose another --out"):
        complete_run(other, tmp_path / "run")


def test_resuming_with_another_number_of_processes_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(SimulatedInterruptError):
        _trained(tmp_path / "run", StopAt(step=1))
    with pytest.raises(RunError, match="start it with torchrun --nproc-per-node 1"):
        resume_run(tmp_path / "run", CPU, processes=2)


def test_state_of_another_run_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(SimulatedInterruptError):
        _trained(tmp_path / "one", StopAt(epoch=1))
    with pytest.raises(SimulatedInterruptError):
        _trained(tmp_path / "other", StopAt(epoch=1), network__widths=(4, 8, 8, 8))
    shutil.copy(tmp_path / "one" / STATE, tmp_path / "other" / STATE)
    with pytest.raises(RunError, match="the saved state does not fit this run"):
        resume_run(tmp_path / "other", CPU).train(tmp_path / "other")


def test_full_disk_keeps_the_last_file(tmp_path: Path) -> None:
    write_tensors(tmp_path / STATE, {"x": torch.zeros(10)})
    words = r"state\.safetensors cannot be written: File too large; make room, or choose another fo"
    with file_size_limit(100_000), pytest.raises(UnwritableError, match=words):
        write_tensors(tmp_path / STATE, {"x": torch.ones(1_000_000)})
    assert torch.equal(read_tensors(tmp_path / STATE)[0]["x"], torch.zeros(10))
    assert [path.name for path in tmp_path.iterdir()] == [STATE]


class Progress:
    """Trainer with nothing to save."""

    def state(self) -> Weights:
        return {"x": torch.zeros(1)}

    def restore(self, state: Weights) -> None:
        raise NotImplementedError


@pytest.mark.parametrize("name", [STATE, HISTORY, CHECKPOINT, EPOCHS])
def test_failed_write_of_an_epoch_says_how_to_continue(name: str, tmp_path: Path) -> None:
    (tmp_path / f"{name}.part").mkdir()
    epoch = Epoch(
        epoch=1,
        train_loss=1.0,
        validation_loss=1.0,
        validation_accuracy=0.5,
        learning_rate=0.1,
        seconds=1.0,
    )
    record = Record(epochs=[epoch], weights={"x": torch.zeros(1)})
    words = (
        rf"{name} cannot be written: .* untouched: make room, then continue .* --resume {tmp_path}"
    )
    with pytest.raises(UnwritableError, match=words):
        RunWriter(tmp_path, {}).end_epoch(Progress(), record)
