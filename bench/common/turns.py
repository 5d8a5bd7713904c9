"""Times of calls that take turns, so that whatever else the machine does falls on all of them."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

_T = TypeVar("_T")


def rotated(items: Sequence[_T], repeat: int) -> list[_T]:
    """The order of a repeat: each begins with the next item."""
    at = repeat % len(items)
    return [*items[at:], *items[:at]]


def take_turns(
    calls: Mapping[_T, Callable[[], object]], *, repeats: int, seconds: float
) -> dict[_T, list[float]]:
    """Seconds that each call takes, `repeats` times, in another order each time.

    A timing is the mean of as many calls as take about `seconds`, and of one at least.
    """
    for call in calls.values():
        call()  # it is warm
    numbers = {name: max(1, round(seconds / _mean(call, 1))) for name, call in calls.items()}
    times: dict[_T, list[float]] = {name: [] for name in calls}
    for repeat in range(repeats):
        for name in rotated(list(calls), repeat):
            times[name].append(_mean(calls[name], numbers[name]))
    return times


def _mean(call: Callable[[], object], number: int) -> float:
    started_s = time.perf_counter()
    for _ in range(number):
        call()
    return (time.perf_counter() - started_s) / number
