"""History of every step of a run."""

import torch
from torch import Tensor

from pipeline.training.callbacks import Callback
from pipeline.training.record import Batch


class History(Callback):
    """Records the loss, the rate and the momentum of each step: float32 (steps,) each."""

    def __init__(self) -> None:
        self._before = torch.zeros(0)
        """Losses before a resume, on the CPU."""
        self._losses: list[Tensor] = []
        self._rates: list[tuple[float, float]] = []

    def end_batch(self, trainer: object, batch: Batch) -> None:
        """Record a step; the loss stays on the device for now."""
        self._losses.append(batch.loss.float())
        self._rates.append((batch.learning_rate, batch.momentum))

    def state(self) -> dict[str, Tensor]:
        """Return `loss`, `learning_rate` and `momentum`."""
        rates = torch.tensor(self._rates, dtype=torch.float32).reshape(-1, 2)
        losses = self._before
        if self._losses:  # one transfer from a GPU
            losses = torch.cat([losses, torch.stack(self._losses).cpu()])
        return {"loss": losses, "learning_rate": rates[:, 0], "momentum": rates[:, 1]}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Continue after the steps of `state`."""
        self._before = state["loss"]
        rates, momenta = state["learning_rate"].tolist(), state["momentum"].tolist()
        self._rates = list(zip(rates, momenta, strict=True))
