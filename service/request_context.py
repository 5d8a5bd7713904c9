"""What a request brings along besides its image: its id, its deadline, and where its time went.

It is made once for a request, and passed on from HTTP or gRPC to the batches.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

Stage = Literal["read", "decode", "queue", "compute", "render"]
STAGES: tuple[Stage, ...] = ("read", "decode", "queue", "compute", "render")


def _never() -> bool:
    return False


@dataclass(slots=True)
class RequestContext:
    """One request on its way; all times are those of `time.perf_counter`, in seconds."""

    id: str = ""
    """The client's own id, or one of ours."""
    started: float = field(default_factory=time.perf_counter)
    deadline: float = float("inf")
    gone: Callable[[], bool] = _never
    """Whether nobody waits for the answer any more."""
    stages: list[tuple[Stage, float, float]] = field(default_factory=list)
    """Name, beginning and end of each stage that was passed through."""

    def passed(self, stage: Stage, since: float) -> float:
        """Note that `stage`, begun at `since`, ends now; returns now."""
        now = time.perf_counter()
        self.stages.append((stage, since, now))
        return now

    def share_of_time(self, share: float) -> float:
        """The moment when `share` of the time left until the deadline is over."""
        if share == 1.0:
            return self.deadline
        now = time.perf_counter()
        return now + (self.deadline - now) * share

    def server_timing(self) -> bytes:
        """The stages so far for browsers, in milliseconds: `queue;dur=0.02, compute;dur=1.31`."""
        return b", ".join(
            b"%s;dur=%.2f" % (stage.encode(), (end - start) * 1000)
            for stage, start, end in self.stages
        )
