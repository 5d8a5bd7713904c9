"""Several processes train the same weights as one, and stop cleanly."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.multiprocessing.spawn import spawn

from models.normalization import Normalisation
from pipeline.data.registry import Split
from pipeline.errors import RunError
from pipeline.runs.run import read_run
from pipeline.runs.run_folder import CHECKPOINT, EPOCHS, HISTORY, STATE
from pipeline.training.callbacks import Callback
from pipeline.training.distributed import (
    SynchronisedBatchNorm2d,
    World,
    joined,
    synchronise_batch_norm,
)
from pipeline.training.loop import train
from pipeline.training.recipe import Recipe
from pipeline.training.record import Batch, Epoch
from pipeline.training.trainer import Trainer
from tests.pipeline.cli.running import limelight_command
from tests.pipeline.training.small_trainings import CPU, DIGITS, float64, small_trainer, splits

RECIPE = Recipe.load("digits8", epochs=2, ema_decay=0.5)


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


def _environment(rank: int, size: int, port: int) -> dict[str, str]:
    return {
        "RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
    }  # fmt: skip


def _train(world: World) -> dict[str, torch.Tensor]:
    fit, validation = (Split(part.images[:256], part.labels[:256]) for part in splits())
    trainer = Trainer(
        RECIPE,
        fit,
        classes=DIGITS,
        normalisation=Normalisation.of([fit.images[:]]),
        device=CPU,
        seed=0,
        world=world,
    )
    losses: list[torch.Tensor] = []
    record = train(trainer, validation, [_Losses(losses)])
    return record.weights | {
        "losses": torch.stack(losses),
        "validation": torch.tensor([epoch.validation_loss for epoch in record.epochs]),
    }


class _Losses(Callback):
    def __init__(self, losses: list[torch.Tensor]) -> None:
        self._losses = losses

    def end_batch(self, trainer: Trainer, batch: Batch) -> None:
        self._losses.append(batch.loss)


def _process(rank: int, size: int, port: int, folder: str) -> None:
    os.environ.update(_environment(rank, size, port))
    torch.set_num_threads(1)
    with float64(), joined(CPU) as world:
        torch.save(_train(world), f"{folder}/{rank}.pt")
    os._exit(0)  # like `python -m pipeline`, for the same reason


def test_two_processes_train_the_same_weights_as_one(tmp_path: Path) -> None:
    spawn(_process, args=(2, _free_port(), str(tmp_path)), nprocs=2)  # type: ignore[no-untyped-call]
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, rtol=0, atol=0, msg=name)
    with float64():
        alone = _train(World())
    assert alone["losses"].dtype == alone["head.linear.weight"].dtype == torch.float64
    assert alone.keys() == first.keys()
    for name, value in alone.items():
        # The order of sums differs, and nothing else.
        torch.testing.assert_close(first[name], value, rtol=1e-9, atol=1e-9, msg=name)


def _normalise(rank: int, size: int, port: int, folder: str) -> None:
    os.environ.update(_environment(rank, size, port))
    images, target = _images()
    with joined(CPU) as world:
        layer = SynchronisedBatchNorm2d(3)
        mine = images[world.part()].clone().requires_grad_()
        out = layer(mine)
        (out * target[world.part()]).sum().backward()
        saved = {"out": out.detach(), "gradient": mine.grad, **layer.state_dict()}
        torch.save(saved, f"{folder}/{rank}.pt")


def _images() -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    shape = (8, 3, 4, 5)
    return 3 * torch.randn(shape, generator=rng) + 1, torch.randn(shape, generator=rng)


def test_synchronised_batch_norm_equals_torch_on_the_whole_batch(tmp_path: Path) -> None:
    spawn(_normalise, args=(2, _free_port(), str(tmp_path)), nprocs=2)  # type: ignore[no-untyped-call]
    parts = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    images, target = _images()
    images.requires_grad_()
    whole = nn.BatchNorm2d(3)
    out = whole(images)
    (out * target).sum().backward()
    assert images.grad is not None
    for rank, part in enumerate(parts):
        torch.testing.assert_close(part["out"], out.detach()[rank::2])
        torch.testing.assert_close(part["gradient"], images.grad[rank::2])
        for name, value in whole.state_dict().items():
            torch.testing.assert_close(part[name], value)


@pytest.mark.parametrize("total", [6, 7])
def test_gathered_rows_are_in_order(total: int) -> None:
    rows = torch.arange(total)
    parts = [rows[World(rank, 2).part()] for rank in (0, 1)]
    longest = len(parts[0])
    padded = [torch.nn.functional.pad(part, (0, longest - len(part))) for part in parts]
    np.testing.assert_array_equal(torch.stack(padded, 1).flatten(0, 1)[:total], rows)


def test_batch_that_processes_cannot_share_is_rejected() -> None:
    fit, _ = splits()
    with pytest.raises(RunError, match="a batch of 64 cannot be shared by 3 processes"):
        Trainer(
            RECIPE,
            fit,
            classes=DIGITS,
            normalisation=Normalisation.of([fit.images[:]]),
            device=CPU,
            seed=0,
            world=World(0, 3),
        )


def test_single_process_joins_no_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with joined(CPU) as world:
        assert world == World(rank=0, size=1)
    assert small_trainer(RECIPE).world.leads


def test_torchrun_writes_a_run_that_can_be_read(tmp_path: Path) -> None:
    arguments = ("train", "digits8", "--epochs", "2", "--out", "run", "--no-report")
    _, environment = limelight_command(cwd=tmp_path)
    done = subprocess.run(
        [
            sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2",
            "--master-port", str(_free_port()), "-m", "pipeline", *arguments,
        ],
        cwd=tmp_path,
        env=environment | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "run"
    assert "by 2 processes" in done.stderr
    run = read_run(tmp_path / "run")
    assert run.config.processes == 2
    files = {path.name for path in (tmp_path / "run").iterdir()}
    assert files == {"config.json", CHECKPOINT, EPOCHS, HISTORY}
    lines = (tmp_path / "run" / EPOCHS).read_text().splitlines()
    assert [Epoch(**json.loads(line)).epoch for line in lines] == [1, 2]
    assert STATE not in files


@pytest.mark.parametrize(
    ("command", "status", "said"),
    [("--help", 0, "Usage"), ("no-such-command", 2, "No such command")],
)
@pytest.mark.parametrize("processes", [1, 2])
def test_process_under_torchrun_skips_interpreter_shutdown(
    tmp_path: Path, command: str, status: int, said: str, processes: int
) -> None:
    script = (
        "import atexit, runpy, sys; atexit.register(print, 'in its own time'); "
        f"sys.argv = ['limelight', '{command}']; runpy.run_module('pipeline', run_name='__main__')"
    )
    _, environment = limelight_command(cwd=tmp_path)
    if processes > 1:
        environment = environment | {"WORLD_SIZE": str(processes)}
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == status, done.stderr
    assert said in done.stdout + done.stderr
    assert ("in its own time" in done.stdout) == (processes == 1)


def test_batch_norm_that_does_more_is_not_replaced_by_one_that_does_less() -> None:
    class NormWithActivation(nn.BatchNorm2d):
        pass

    with pytest.raises(RunError, match=r"layer NormWithActivation .* in a single process only"):
        synchronise_batch_norm(nn.Sequential(NormWithActivation(2)), CPU)
