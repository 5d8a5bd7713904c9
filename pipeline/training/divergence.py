"""Check of the loss during training: whether it diverges, or is no number."""

import math

from pipeline.errors import RunError
from pipeline.training.record import Batch

# Last step at which no loss counts as diverging, and the multiple of the loss of guessing.
_SETTLING_STEPS = 20
_DIVERGED = 4.0


class DivergenceCheck:
    """Check that a loss stays a number, and does not end far above that of guessing.

    Args:
        of_guessing: loss of the same probability for every class.
        peak: highest learning rate of the run, for the message.

    Attributes:
        smoothed: moving average of the loss; NaN before the first step.

    """

    def __init__(self, of_guessing: float, peak: float) -> None:
        self._of_guessing, self._peak = of_guessing, peak
        self.smoothed = math.nan

    def __call__(self, batch: Batch) -> None:
        """Check a step.

        Raises:
            RunError: the loss diverges or is no number.

        """
        loss, before = float(batch.loss), self.smoothed
        self.smoothed = loss if math.isnan(before) else 0.9 * before + 0.1 * loss
        # Both must be high: a loss that has come down from a high start does not diverge.
        worst = min(loss, self.smoothed)
        diverged = batch.step > _SETTLING_STEPS and worst > _DIVERGED * self._of_guessing
        if math.isfinite(loss) and not diverged:
            return
        said = f"is {loss}"
        if diverged:
            said = f"diverges ({loss:.3g}, and guessing gives {self._of_guessing:.3g})"
        raise RunError(
            f"the loss {said} in epoch {batch.epoch}, step {batch.step}, at a rate of "
            f"{batch.learning_rate:.3g}: the peak rate {self._peak:g} is too high; try "
            f"--lr {min(self._peak, batch.learning_rate) / 4:.2g}, or let `limelight "
            "lr-find` suggest one"
        )
