"""The training loop of the character language models."""

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from models.text.network import State, cut_history, sequence_loss
from models.text.registry import build_text_network
from pipeline.errors import RunError
from pipeline.text.batches import (
    TextBatch,
    as_streams,
    check_windows,
    stream_batches,
    window_batches,
)
from pipeline.text.corpus import Corpus
from pipeline.text.recipe import TextRecipe
from pipeline.training.device import autocast, reuse_freed_memory
from pipeline.training.optimization.optimizers import restore_by_name, state_by_name
from pipeline.training.optimization.weight_averaging import moving_average
from pipeline.training.random_state import random_state, restore_random_state
from pipeline.training.record import Batch, Epoch, Record
from pipeline.training.weights import Weights, copied, under

# The number of batches varies with the jitter, so the schedule counts thousandths of an epoch.
_TICKS = 1000
# The state goes on, so that longer batches give the same validation loss in less time.
_VALIDATED_AT_ONCE = 256


class TextRecord(Record):
    """Epochs so far, and the weights of the one with the lowest validation loss."""

    @property
    def best(self) -> Epoch:
        """Epoch whose weights are kept."""
        return min(self.epochs, key=lambda epoch: epoch.validation_loss)


class StepObserver(Protocol):
    """Observer of the steps of a run, which does not change it."""

    def end_batch(self, trainer: "TextTrainer", batch: Batch) -> None:
        """Observe a step."""


class EpochObserver(Protocol):
    """Observer of the epochs of a run, which does not change it."""

    def end_epoch(self, trainer: "TextTrainer", record: TextRecord) -> None:
        """Observe an epoch, which was validated and is the last of `record`."""


class TextTrainer:
    """Network, optimiser and progress of a training run.

    The same seed on the same device gives the same weights, with or without interruptions.

    Args:
        recipe: the options of the run.
        corpus: the text.
        device: the device to train on.
        seed: of the weights, the order, the jitter and the dropout.

    Raises:
        RunError: the options of the recipe contradict each other.
        DataError: the text is too short.

    """

    def __init__(
        self, recipe: TextRecipe, corpus: Corpus, *, device: torch.device, seed: int
    ) -> None:
        reuse_freed_memory(device)
        self.recipe, self.device = recipe, device
        self.epoch = 0
        """Number of finished epochs."""
        self.step = 0
        torch.manual_seed(seed)
        self._rng = torch.Generator().manual_seed(seed)
        try:
            network = build_text_network(recipe.network, vocabulary=len(corpus.vocabulary))
        except ValueError as error:
            raise RunError(f"network: {error}") from error
        self.network = network.to(device)
        self._optimizer = torch.optim.Adam(
            network.parameters(), lr=0.0, weight_decay=recipe.weight_decay, fused=True
        )
        self._average: AveragedModel | None = None
        if getattr(recipe.schedule, "swa_fraction", 0.0):
            raise RunError("schedule.swa_fraction: a character language model averages all steps")
        if recipe.ema_decay:
            self._average = moving_average(network, recipe.ema_decay)
        self._fit, self._validation = (
            self._arranged(torch.from_numpy(codes)).to(device)
            for codes in (corpus.training, corpus.validation)
        )

    def _arranged(self, codes: Tensor) -> Tensor:
        if self.network.window:
            check_windows(codes, self.network.window)
            return codes
        return as_streams(codes, self.recipe.streams)

    @property
    def cycle_ends(self) -> tuple[int, ...]:
        """The epochs, from 1, that end a cycle of the schedule."""
        return self.recipe.schedule.cycle_ends(self.recipe.epochs)

    @property
    def evaluated(self) -> nn.Module:
        """Network that is evaluated and kept: with EMA weights, or the one that is trained."""
        return self.network if self._average is None else self._average.module

    def run_epoch(self) -> Iterator[Batch]:
        """Train one epoch, yielding after each step.

        Raises:
            RunError: the loss stops being a number.

        """
        self.network.train()
        state: State | None = None
        for batch in self._batches():
            loss, state = self._take_step(batch, state)
            self.step += 1
            group = self._optimizer.param_groups[0]
            yield Batch(
                step=self.step,
                steps=round(self.step * self.recipe.epochs / (self.epoch + batch.done)),
                epoch=self.epoch + 1,
                loss=loss,
                learning_rate=group["lr"],
                momentum=group["betas"][0],
            )
            self._set_rate(batch.done)
        self.epoch += 1

    def _batches(self) -> Iterable[TextBatch]:
        recipe, window = self.recipe, self.network.window
        self._set_rate(0.0)
        if window:
            return window_batches(self._fit, window, recipe.batch_size, order=self._rng)
        jitter = self._rng if recipe.jitter else None
        return stream_batches(self._fit, recipe.bptt, jitter=jitter)

    def _set_rate(self, done: float) -> None:
        """Set the rate of the step behind this share of the epoch."""
        schedule, ticks = self.recipe.schedule, _TICKS * self.recipe.epochs
        tick = min(int((self.epoch + done) * _TICKS), ticks - 1)
        rate = schedule.at(tick, ticks, _TICKS)
        if not isinstance(schedule.peak, (int, float)):
            raise RunError("schedule.peak: a character language model has one layer group")
        group = self._optimizer.param_groups[0]
        group["lr"] = schedule.peak * rate.share
        group["betas"] = (rate.momentum, group["betas"][1])

    def _take_step(self, batch: TextBatch, state: State | None) -> tuple[Tensor, State | None]:
        """Update the weights by one batch; return its loss and the state for the next."""
        with autocast(self.device):
            logits, behind = self.network(batch.characters, state)
        loss = sequence_loss(logits, batch.targets)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise RunError(
                f"the loss is {value} at step {self.step + 1}; choose a lower --lr, or a "
                "clip of the gradient: --set clip=0.5"
            )
        loss.backward()  # type: ignore[no-untyped-call]
        if self.recipe.clip:
            nn.utils.clip_grad_norm_(self.network.parameters(), self.recipe.clip)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        if self._average is not None:
            self._average.update_parameters(self.network)
        return loss.detach(), cut_history(behind) if self.network.keeps_state else None

    def validate(self) -> tuple[float, float]:
        """Return log loss and accuracy, per character, on the end of the text."""
        network, recipe = self.evaluated.eval(), self.recipe
        window, keeps_state = self.network.window, self.network.keeps_state
        if window:
            batches = window_batches(self._validation, window, recipe.batch_size)
        else:
            length = _VALIDATED_AT_ONCE if keeps_state else recipe.bptt
            batches = stream_batches(self._validation, length)
        loss, right, count, state = 0.0, 0, 0, None
        with torch.inference_mode(), autocast(self.device):
            for batch in batches:
                logits, state = network(batch.characters, state if keeps_state else None)
                number = batch.targets.numel()
                loss += float(sequence_loss(logits, batch.targets)) * number
                right += int((logits.argmax(2) == batch.targets).sum())
                count += number
        return loss / count, right / count

    def weights(self) -> Weights:
        """Copy the weights to the CPU."""
        return copied(self.evaluated.state_dict())

    def state(self) -> Weights:
        """Copy everything that the rest of the run depends on to the CPU."""
        state = {f"network.{name}": value for name, value in self.network.state_dict().items()}
        found = state_by_name([self._optimizer])
        state |= {f"optimizer.{name}": value for name, value in found.items()}
        if self._average is not None:
            average = self._average.state_dict()
            state |= {f"average.{name}": value for name, value in average.items()}
        state |= random_state(self._rng, self.device)
        state["progress"] = torch.tensor([self.epoch, self.step])
        return copied(state)

    def restore(self, state: Weights) -> None:
        """Continue from a `state` of the same recipe and text.

        Raises:
            RunError: the state does not fit this run.

        """
        try:
            self.epoch, self.step = state["progress"].tolist()
            self.network.load_state_dict(under("network", state))
            restore_by_name([self._optimizer], under("optimizer", state))
            if self._average is not None:
                self._average.load_state_dict(under("average", state))
            restore_random_state(state, self._rng, self.device)
        except (RuntimeError, KeyError, ValueError) as error:
            raise RunError(f"the saved state does not fit this run: {error}") from error


def train_text(
    trainer: TextTrainer,
    record: TextRecord,
    *,
    steps: Sequence[StepObserver] = (),
    epochs: Sequence[EpochObserver] = (),
) -> TextRecord:
    """Train to the end; `record` has the epochs before a resume, the others observe.

    Raises:
        RunError: the loss stops being a number.

    """
    while trainer.epoch < trainer.recipe.epochs:
        started = time.perf_counter()
        losses: list[Tensor] = []
        for batch in trainer.run_epoch():
            losses.append(batch.loss)
            for each in steps:
                each.end_batch(trainer, batch)
        validation_loss, accuracy = trainer.validate()
        record.epochs.append(
            Epoch(
                epoch=trainer.epoch,
                train_loss=float(torch.stack(losses).mean()),
                validation_loss=validation_loss,
                validation_accuracy=accuracy,
                learning_rate=batch.learning_rate,
                seconds=time.perf_counter() - started,
            )
        )
        if record.improved:
            record.weights = trainer.weights()
        for observer in epochs:
            observer.end_epoch(trainer, record)
    return record
