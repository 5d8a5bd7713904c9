"""What a request brings along besides its image: how long it may take, and where its time went."""

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

    def server_timing(self) -> bytes:
        """The stages so far for browsers, in milliseconds: `queue;dur=0.02, compute;dur=1.31`."""
        return b", ".join(
            b"%s;dur=%.2f" % (stage.encode(), (end - start) * 1000)
            for stage, start, end in self.stages
        )
