"""Training steps: a network, its optimisers and its data, one epoch at a time."""

import math
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from models.normalization import Normalisation
from models.whitening import WhitenedConv
from pipeline.data.class_balance import class_weights
from pipeline.data.registry import Split
from pipeline.errors import DataError, RunError
from pipeline.training.augmentation.augmenter import Augmenter
from pipeline.training.device import (
    at_least_float32,
    autocast,
    avoid_strides_of_one_position,
    compiles,
    reuse_freed_memory,
    uses_bfloat16,
)
from pipeline.training.distillation import Teachers
from pipeline.training.distributed import World, synchronise_batch_norm
from pipeline.training.divergence import DivergenceCheck
from pipeline.training.inference import evaluate
from pipeline.training.losses import Loss
from pipeline.training.optimization.optimizers import Optimizers
from pipeline.training.optimization.schedules import Rate, Schedule
from pipeline.training.optimization.weight_averaging import (
    measure_running_statistics,
    moving_average,
)
from pipeline.training.random_state import random_state, restore_random_state
from pipeline.training.recipe import Recipe
from pipeline.training.record import Batch
from pipeline.training.resident_images import ResidentImages
from pipeline.training.weights import Weights, copied, initialise, make_network, under

WHITENING_IMAGES = 5000
# Large images have enough patches in fewer of them.
_WHITENING_PIXELS = WHITENING_IMAGES * 32 * 32
# Images that the statistics of BatchNorm layers are measured on.
_NORM_IMAGES = 8192
# Steps after which running statistics, with a momentum of 0.1, no longer depend on earlier ones.
_FORGETTING_STEPS = 50
# A GPU runs ahead of Python; reading the loss at every step would make it wait.
_STEPS_BETWEEN_LOSS_CHECKS = 20


class StepObserver(Protocol):
    """Observer of the steps of an epoch: these two methods of `Callback`."""

    def begin_batch(self, trainer: "Trainer") -> None:
        """Prepare, before the forward pass of the step `trainer.step` + 1."""

    def end_batch(self, trainer: "Trainer", batch: Batch) -> None:
        """Observe a step, after the update of the weights."""


class Trainer:
    """Network, optimisers and progress of a training run.

    The same seed on the same device gives the same weights, with or without interruptions.

    Args:
        recipe: the options of the run.
        fit: images to fit, uint8 (N, H, W, C), and labels.
        classes: their names, in the order of the labels.
        normalisation: of the network's input.
        device: the device to train on; the data is copied to it if it fits.
        seed: of the weights, the order and the augmentation.
        initial: weights to initialise from; those of the head may be missing.
        world: the processes that train together.
        teachers: the models to distil from, instead of learning the labels.

    Raises:
        DataError: there are fewer images than a batch.
        RunError: the recipe does not fit the network, or the processes cannot share a batch.

    """

    def __init__(
        self,
        recipe: Recipe,
        fit: Split,
        *,
        classes: Sequence[str],
        normalisation: Normalisation,
        device: torch.device,
        seed: int,
        initial: Weights | None = None,
        world: World | None = None,
        teachers: Teachers | None = None,
    ) -> None:
        if len(fit) < recipe.batch_size:
            raise DataError(
                f"{len(fit)} training images are fewer than one batch of {recipe.batch_size}; "
                "add images or pass a smaller --batch-size"
            )
        reuse_freed_memory(device)
        self.recipe, self.device, self.world = recipe, device, world or World()
        height, width = fit.images.shape[1:3]
        side, pad = min(height, width), recipe.augmentation.pad
        if pad >= side:
            raise RunError(
                f"images of {width} x {height} pixels cannot be padded by {pad}: pass "
                f"--set augmentation.pad={side // 8}, or a larger --image-size"
            )
        if recipe.batch_size % self.world.size:
            raise RunError(
                f"a batch of {recipe.batch_size} cannot be shared by {self.world.size} "
                "processes; pass a --batch-size that they divide"
            )
        self.epoch = 0
        """Number of finished epochs."""
        self.step = 0
        self.eager = False
        """True if the next step must run uncompiled, so that hooks are called."""
        self.schedule: Schedule = recipe.schedule
        self.steps_per_epoch = len(fit) // recipe.batch_size
        self.epochs = recipe.freeze_epochs + recipe.epochs
        self.steps = self.epochs * self.steps_per_epoch
        self._unfrozen_from = recipe.freeze_epochs * self.steps_per_epoch
        self._averaged_from = self._unfrozen_from + self.schedule.averaged_from(
            self.steps - self._unfrozen_from
        )
        self._images = len(fit)
        torch.manual_seed(seed)
        self._seed = seed
        self._rng = torch.Generator().manual_seed(seed)
        self.normalisation = normalisation
        self._prepare = normalisation.on(device)
        images = ResidentImages(fit.images, device)
        weights = None
        if recipe.class_weights:
            weights = torch.from_numpy(class_weights(fit.labels, classes)).to(device)
        self._loss = Loss(
            torch.from_numpy(fit.labels).to(device),
            classes=len(classes),
            weights=weights,
            label_smoothing=recipe.label_smoothing,
            teachers=teachers,
        )
        network = make_network(
            # `initial` replaces pretrained weights, so these need no download.
            recipe if initial is None else recipe.but(network__pretrained=False),
            channels=fit.images.shape[3],
            classes=len(classes),
        )
        if initial is not None:
            initialise(network, initial, partly=recipe.network.weights is not None)
        self.network = network.to(device).to(memory_format=torch.channels_last)
        if initial is None:
            self._whiten(images)
        if self.world.size > 1:
            if recipe.network.norm == "lesson":
                raise RunError(
                    'norm = "lesson" works in a single process only; choose norm = "batch", which '
                    "is the same in one process"
                )
            synchronise_batch_norm(self.network, device)
        self._average: AveragedModel | None = None
        if recipe.ema_decay:
            self._average = moving_average(self.network, recipe.ema_decay)
        self.optimizers = Optimizers(self.network, recipe)
        paint = torch.tensor(normalisation.mean).mul(255).round().to(torch.uint8)
        self._augmenter = Augmenter(images, recipe.augmentation, self._rng, paint=paint)
        if uses_bfloat16(device) and device.type == "cpu":
            image = images.take(torch.zeros(1, dtype=torch.int64))
            avoid_strides_of_one_position(self.network, self._prepare(image))
        self._check_loss = DivergenceCheck(self._loss.of_guessing, self.optimizers.peak)
        self._frozen: bool | None = None
        self._forward: nn.Module = self.network
        self._compiled: nn.Module = self.network

    @property
    def evaluated(self) -> nn.Module:
        """Network that is evaluated and kept: with EMA weights, or the one that is trained."""
        return self.network if self._begun_average is None else self._begun_average.module

    @property
    def _begun_average(self) -> AveragedModel | None:
        return self._average if self.step > self._averaged_from else None

    def weights(self) -> Weights:
        """Copy the weights of the evaluated network to the CPU."""
        return copied(self.evaluated.state_dict())

    def run_epoch(self, observers: Sequence[StepObserver] = ()) -> Iterator[Batch]:
        """Train one epoch, yielding after each step.

        Raises:
            RunError: the loss diverges or stops being a number.

        """
        frozen = self.epoch < self.recipe.freeze_epochs
        self._begin_epoch(frozen)
        self.epoch += 1
        if self.world.size > 1:
            # Each process has its own dropout, also after a resume, which has the state of one.
            torch.manual_seed(self._seed + self.epoch * self.world.size + self.world.rank)
        order = torch.randperm(self._images, generator=self._rng)
        size = self.recipe.batch_size
        for indices in torch.split(order[: self.steps_per_epoch * size], size):
            for observer in observers:
                observer.begin_batch(self)
            forward = self._forward if self.eager else self._compiled
            batch = self._take_step(forward, indices, frozen)
            for observer in observers:
                observer.end_batch(self, batch)
            yield batch
        self._measure_norms(frozen)

    def _begin_epoch(self, frozen: bool) -> None:
        """Freeze or unfreeze the features, and prepare the callables for a step."""
        network = self.network.train()
        if frozen or self.recipe.bn_freeze:
            for layer in network.features.modules():
                if hasattr(layer, "running_mean"):
                    layer.eval()
        if frozen == self._frozen:
            return
        self._frozen = frozen
        network.features.requires_grad_(not frozen)
        # The wrapper for several processes fixes the trainable parameters when it is made.
        alone = self.world.size == 1
        self._forward = network if alone else DistributedDataParallel(network)
        self._compiled = self._forward
        if compiles(self.device):
            # All batches have one size; with dynamic sizes a second network would get slower code.
            compiled = torch.compile(self._forward, dynamic=False)
            self._compiled = compiled  # type: ignore[assignment]

    def _take_step(self, forward: nn.Module, indices: Tensor, frozen: bool) -> Batch:
        part = self.world.part()
        rate = self._rate(frozen)
        self.optimizers.set(rate)
        drawn = self._augmenter.draw(indices, self.epoch, self._rng, part)
        with autocast(self.device):
            logits = forward(self._prepare(drawn.images_nhwc))
        loss = self._loss(at_least_float32(logits), indices[part], drawn)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizers.step()
        self.step += 1
        if self._begun_average is not None:
            self._begun_average.update_parameters(self.network)
        batch = Batch(
            step=self.step,
            steps=self.steps,
            epoch=self.epoch,
            loss=self.world.mean(loss.detach()),
            learning_rate=rate.share * self.optimizers.peak,
            momentum=rate.momentum,
        )
        if self.device.type == "cpu" or self.step % _STEPS_BETWEEN_LOSS_CHECKS == 0:
            self._check_loss(batch)
        return batch

    def _measure_norms(self, frozen: bool) -> None:
        """Measure the statistics of BatchNorm layers again, with the evaluated network.

        Averaged weights have other activations than the weights that they are averages of
        (Izmailov et al., 2018, arXiv 1803.05407, section 3.2). If an epoch has few steps, running
        statistics belong to earlier weights (Wu and Johnson, 2021, arXiv 2105.07576, section 3).
        Images are augmented as in training.
        """
        settled = self.steps_per_epoch >= _FORGETTING_STEPS
        if frozen or self.recipe.bn_freeze or (self._begun_average is None and settled):
            return
        rng = torch.Generator().manual_seed(self.step)
        size = self.recipe.batch_size
        batches = min(self.steps_per_epoch, max(_NORM_IMAGES // size, 1))
        order = torch.randperm(self._images, generator=rng)[: batches * size]
        drawn = (
            self._augmenter.draw(indices, self.epoch, rng, self.world.part())
            for indices in torch.split(order, size)
        )
        with autocast(self.device):
            measure_running_statistics(
                self.evaluated, (self._prepare(each.images_nhwc) for each in drawn)
            )

    def _rate(self, frozen: bool) -> Rate:
        """Return the rate of this step; the schedule runs twice if the head is trained first."""
        before = self._unfrozen_from
        if frozen:
            return self.schedule.at(self.step, before, self.steps_per_epoch)
        return self.schedule.at(self.step - before, self.steps - before, self.steps_per_epoch)

    def _whiten(self, images: ResidentImages) -> None:
        count = min(WHITENING_IMAGES, _WHITENING_PIXELS // math.prod(images.shape[1:3]))
        for layer in self.network.modules():
            if isinstance(layer, WhitenedConv):
                chosen = torch.randperm(len(images), generator=self._rng)[: max(count, 1)]
                layer.measure(self._prepare(images.take(chosen)))

    def validate(self, validation: Split) -> tuple[float, float]:
        """Compute log loss and accuracy of the evaluated network.

        Raises:
            RunError: there are more processes than images.

        """
        if len(validation) < self.world.size:
            raise RunError(
                f"{len(validation)} validation images cannot be shared by {self.world.size} "
                "processes: start fewer, or hold out more images"
            )
        with autocast(self.device):
            own = validation.take(np.arange(len(validation))[self.world.part()])
            logits = evaluate(self.evaluated, own.images, self.normalisation, self.device)
        logits = self.world.gather(at_least_float32(logits), len(validation))
        labels = torch.from_numpy(validation.labels)
        loss = float(nn.functional.cross_entropy(logits, labels))
        return loss, float((logits.argmax(1) == labels).float().mean())

    def state(self) -> Weights:
        """Copy everything that the rest of the run depends on to the CPU."""
        state = {f"network.{name}": value for name, value in self.network.state_dict().items()}
        if self._begun_average is not None:
            average = self._begun_average.state_dict()
            state |= {f"average.{name}": value for name, value in average.items()}
        state |= {f"optimizer.{name}": value for name, value in self.optimizers.state().items()}
        state |= random_state(self._rng, self.device)
        state["progress"] = torch.tensor([self.epoch, self.step])
        state["smoothed"] = torch.tensor(self._check_loss.smoothed, dtype=torch.float64)
        return copied(state)

    def restore(self, state: Weights) -> None:
        """Continue from a `state` of the same recipe and data.

        Raises:
            RunError: the state does not fit this run.

        """
        try:
            self.epoch, self.step = state["progress"].tolist()
            self.network.load_state_dict(under("network", state))
            if self._begun_average is not None:
                self._begun_average.load_state_dict(under("average", state))
            self.optimizers.restore(under("optimizer", state))
            restore_random_state(state, self._rng, self.device)
            self._check_loss.smoothed = float(state["smoothed"])
        except (RuntimeError, KeyError, ValueError) as error:
            raise RunError(f"the saved state does not fit this run: {error}") from error
