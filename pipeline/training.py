"""The training loop: 1cycle with cyclical momentum on data that is resident on the device."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models import ARCHITECTURES, ClassMapNetwork
from pipeline.augmentation import pad_reflect, random_crops
from pipeline.datasets import Split
from pipeline.device import autocast
from pipeline.errors import DataError, RunError
from pipeline.recipe import OneCycle, Recipe

EVALUATION_BATCH = 500


@dataclass(frozen=True, kw_only=True, slots=True)
class Normalisation:
    """Mean and standard deviation of each channel, of pixels scaled to [0, 1]."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, images: NDArray[np.uint8]) -> "Normalisation":
        """Measure uint8 images (N, H, W, C)."""
        counts = [
            np.bincount(channel.ravel(), minlength=256) for channel in np.moveaxis(images, 3, 0)
        ]
        levels = np.arange(256) / 255
        means = [float(np.average(levels, weights=count)) for count in counts]
        variances = [
            float(np.average((levels - mean) ** 2, weights=count))
            for mean, count in zip(means, counts, strict=True)
        ]
        # A constant channel carries nothing: dividing by 1 leaves it at zero.
        return cls(mean=tuple(means), std=tuple(math.sqrt(v) or 1.0 for v in variances))

    def scale_and_shift(self) -> tuple[Tensor, Tensor]:
        """What a channel's grey level is multiplied by, and what is added to it then: (C,) each."""
        mean, std = torch.tensor(self.mean), torch.tensor(self.std)
        return 1 / (255 * std), -mean / std

    def on(self, device: torch.device) -> Callable[[Tensor], Tensor]:
        """The function from uint8 (N, H, W, C) to float32 (N, C, H, W), for images on `device`."""
        scale, shift = (values.to(device) for values in self.scale_and_shift())
        return lambda images_nhwc: normalise(images_nhwc, scale, shift)


def normalise(images_nhwc: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """uint8 (N, H, W, C), (C,), (C,) -> float32 (N, C, H, W), channels last in memory."""
    return (images_nhwc.float() * scale + shift).permute(0, 3, 1, 2)


@dataclass(frozen=True, kw_only=True, slots=True)
class Epoch:
    """What one epoch came to; a line of `epochs.jsonl`."""

    epoch: int
    train_loss: float
    validation_loss: float
    validation_accuracy: float
    learning_rate: float
    seconds: float

    @property
    def rank(self) -> tuple[float, float]:
        """Higher is better: by validation accuracy, then by loss."""
        return self.validation_accuracy, -self.validation_loss

    def as_json(self) -> dict[str, float]:
        """The fields by name, as `epochs.jsonl` has them."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class Trained:
    """The best epoch's weights (highest validation accuracy, then lowest loss) and the record."""

    weights: dict[str, Tensor]
    best: Epoch
    epochs: tuple[Epoch, ...]


def build_network(recipe: Recipe, *, channels: int, classes: int) -> ClassMapNetwork:
    """The recipe's network, freshly initialised from torch's global random state."""
    return ARCHITECTURES[recipe.architecture](channels, classes, recipe.widths)


def train(
    recipe: Recipe,
    fit: Split,
    validation: Split,
    *,
    classes: int,
    normalisation: Normalisation,
    device: torch.device,
    seed: int,
    on_batch: Callable[[int, int, float], None] = lambda step, steps, loss: None,
    on_epoch: Callable[[Epoch, dict[str, Tensor] | None], None] = lambda epoch, weights: None,
) -> Trained:
    """Train on `fit`, choosing the epoch by `validation`.

    `on_epoch` is given each epoch, with its weights if they are the best so far. The same seed on
    the same device gives the same weights.

    Raises:
        DataError: if there are fewer images than a batch.
        RunError: if the loss stops being a number.

    """
    if len(fit) < recipe.batch_size:
        raise DataError(
            f"{len(fit)} training images are fewer than one batch of {recipe.batch_size}; "
            "add images or pass a smaller --batch-size"
        )
    torch.manual_seed(seed)
    rng = torch.Generator().manual_seed(seed)
    network = build_network(recipe, channels=fit.images.shape[3], classes=classes)
    network = network.to(device).to(memory_format=torch.channels_last)
    step_network: nn.Module = network
    if device.type == "cuda":
        step_network = torch.compile(network)  # type: ignore[assignment]
    steps = recipe.epochs * (len(fit) // recipe.batch_size)
    optimizer, scheduler = _one_cycle(network, recipe.schedule, recipe.weight_decay, steps)
    criterion = nn.CrossEntropyLoss(label_smoothing=recipe.label_smoothing)
    prepare = normalisation.on(device)
    padded = pad_reflect(torch.from_numpy(fit.images).to(device), recipe.pad)
    labels = torch.from_numpy(fit.labels).to(device)

    record: list[Epoch] = []
    best: Epoch | None = None
    weights: dict[str, Tensor] = {}
    step = 0
    for number in range(1, recipe.epochs + 1):
        started = time.perf_counter()
        network.train()
        total = torch.zeros((), device=device)
        batches = 0
        for indices in _shuffled_batches(len(fit), recipe.batch_size, rng):
            crops = random_crops(padded, indices, recipe.pad, flip=recipe.flip, rng=rng)
            with autocast(device):
                logits = step_network(prepare(crops))
            loss = criterion(logits.float(), labels[indices.to(device)])
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            scheduler.step()
            total += loss.detach()
            step, batches = step + 1, batches + 1
            if device.type == "cpu" or step % 20 == 0:
                on_batch(step, steps, float(loss.detach()))
        if not math.isfinite(train_loss := float(total) / batches):
            raise RunError(
                f"the loss is {train_loss} in epoch {number}: the peak rate "
                f"{recipe.schedule.peak_lr} is too high; try {recipe.schedule.peak_lr / 4:g}"
            )
        validation_logits = evaluate(network, validation.images, normalisation, device)
        targets = torch.from_numpy(validation.labels)
        epoch = Epoch(
            epoch=number,
            train_loss=train_loss,
            validation_loss=float(nn.functional.cross_entropy(validation_logits, targets)),
            validation_accuracy=float((validation_logits.argmax(1) == targets).float().mean()),
            learning_rate=float(scheduler.get_last_lr()[0]),
            seconds=time.perf_counter() - started,
        )
        record.append(epoch)
        improved = best is None or epoch.rank > best.rank
        if improved:
            best = epoch
            weights = {
                name: value.detach().to("cpu", copy=True).contiguous()
                for name, value in network.state_dict().items()
            }
        on_epoch(epoch, weights if improved else None)
    if best is None:
        raise RunError("no epoch was trained; pass --epochs 1 or more")
    return Trained(weights=weights, best=best, epochs=tuple(record))


@torch.inference_mode()
def evaluate(
    network: nn.Module,
    images: NDArray[np.uint8],
    normalisation: Normalisation,
    device: torch.device,
) -> Tensor:
    """Logits of uint8 images (N, H, W, C), one view each, in float32 on the CPU: (N, K)."""
    network.eval()
    prepare = normalisation.on(device)
    batches = torch.split(torch.from_numpy(images), EVALUATION_BATCH)
    return torch.cat([network(prepare(batch.to(device))).cpu() for batch in batches])


def _shuffled_batches(images: int, batch_size: int, rng: torch.Generator) -> Iterator[Tensor]:
    order = torch.randperm(images, generator=rng)
    yield from torch.split(order[: images - images % batch_size], batch_size)


def _one_cycle(
    network: nn.Module, schedule: OneCycle, weight_decay: float, steps: int
) -> tuple[torch.optim.SGD, torch.optim.lr_scheduler.OneCycleLR]:
    weights = [parameter for parameter in network.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in network.parameters() if parameter.ndim <= 1]
    high, low = schedule.momentum
    groups: list[dict[str, Any]] = [
        {"params": weights, "weight_decay": weight_decay},
        {"params": others},
    ]
    optimizer = torch.optim.SGD(
        groups,
        lr=schedule.peak_lr,
        momentum=high,
        nesterov=True,
    )
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        max_lr=schedule.peak_lr,
        # The last step leaves the scheduler at its end, not beyond it.
        total_steps=steps + 1,
        pct_start=schedule.warmup,
        div_factor=schedule.div,
        final_div_factor=schedule.div_final,
        max_momentum=high,
        base_momentum=low,
    )
    return optimizer, scheduler
