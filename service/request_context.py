"""Context of a request: its ID, its deadline and the times of its stages.

Each request has one context, which HTTP or gRPC creates and passes on to the batcher.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from service.caller import ANYONE, Caller, Criticality

Stage = Literal["read", "decode", "queue", "compute", "render"]
STAGES: tuple[Stage, ...] = ("read", "decode", "queue", "compute", "render")


def _never() -> bool:
    return False


class Trial(Protocol):
    """Part that a request takes in a canary or a shadow."""

    def keep(
        self, pixels_nhwc: NDArray[np.uint8], found: Mapping[str, NDArray[np.float32]]
    ) -> None:
        """Keep the images of the request as the network gets them, and the outputs."""

    def end(self, status: int, context: "RequestContext") -> None:
        """Count the request, whose answer was sent with the HTTP status `status`."""


@dataclass(slots=True)
class RequestContext:
    """Context of one request. All times are values of `time.perf_counter`, in seconds."""

    id: str = ""
    """ID that the client sent, or a random one."""
    started: float = field(default_factory=time.perf_counter)
    deadline: float = float("inf")
    gone: Callable[[], bool] = _never
    """Function that returns True after the client has disconnected."""
    caller: Caller = ANYONE
    """Owner of the request's API key."""
    criticality: Criticality = "default"
    """How much the request matters; it decides what is rejected first."""
    stages: list[tuple[Stage, float, float]] = field(default_factory=list)
    """Name, start and end of each completed stage."""
    trial: Trial | None = None
    """Part in a canary or a shadow; None if the request takes none."""

    def end_stage(self, stage: Stage, started: float) -> float:
        """Record that `stage`, which began at `started`, ends now. Return the current time."""
        now = time.perf_counter()
        self.stages.append((stage, started, now))
        return now

    def share_of_time(self, share: float) -> float:
        """Return the time at which `share` of the time left until the deadline has passed."""
        if share == 1.0:
            return self.deadline
        now = time.perf_counter()
        return now + (self.deadline - now) * share

    def server_timing(self) -> bytes:
        """Return the `Server-Timing` header in milliseconds: `queue;dur=0.02, compute;dur=1.31`."""
        return b", ".join(
            b"%s;dur=%.2f" % (stage.encode(), (end - start) * 1000)
            for stage, start, end in self.stages
        )
