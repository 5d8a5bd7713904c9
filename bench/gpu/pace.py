"""Pace of a training, once its network is compiled."""

import time

import torch

from pipeline.training.trainer import Trainer

_WARM_UP, _TIMED = 5, 20


def wait(device: torch.device) -> None:
    """Let a GPU finish what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def seconds_per_step(trainer: Trainer) -> float:
    """Take some steps, which compile the network for all later trainings of it; time others.

    Raises:
        ValueError: an epoch has too few steps.
    """
    steps = trainer.run_epoch()
    for _ in zip(range(_WARM_UP), steps, strict=False):
        pass
    wait(trainer.device)
    started, taken = time.perf_counter(), 0
    for _ in zip(range(_TIMED), steps, strict=False):
        taken += 1
    wait(trainer.device)
    if not taken:
        raise ValueError(f"an epoch of {trainer.steps_per_epoch} steps is too short to be timed")
    return (time.perf_counter() - started) / taken
