"""Readiness of a worker: whether it can answer requests, and why not."""

from collections.abc import Callable
from typing import Protocol

from limelight.errors import Draining, LimelightError, NotReady

_RETRY_AFTER_S = 10


def shutting_down() -> Draining:
    """Return the error of a worker that is shutting down."""
    return Draining(
        "the service is shutting down: use another replica", retry_after_s=_RETRY_AFTER_S
    )


class Part(Protocol):
    """Part of a worker that must be ready before the worker is."""

    @property
    def unready_reason(self) -> str | None:
        """Reason why it is not ready; None if it is."""


class Readiness:
    """Readiness of a worker, by that of its parts.

    Args:
        draining: returns True once the worker is shutting down.
    """

    def __init__(self, draining: Callable[[], bool]) -> None:
        self._draining = draining
        self._parts: list[Part] = []

    def require(self, part: Part) -> None:
        """Make the worker wait for a part. Of several, the reason of the first one counts."""
        self._parts.append(part)

    def error(self) -> LimelightError | None:
        """Return the error that says why the worker is not ready; None if it is ready."""
        if self._draining():
            return shutting_down()
        reasons = (part.unready_reason for part in self._parts)
        reason = next((reason for reason in reasons if reason is not None), None)
        return None if reason is None else NotReady(reason, retry_after_s=_RETRY_AFTER_S)

    @property
    def is_ready(self) -> bool:
        """True if the worker is ready."""
        return self.error() is None
