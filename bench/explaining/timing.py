"""Times of calls that take turns, so that whatever else the machine does falls on all of them."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch


def take_turns(
    calls: Sequence[Callable[[], object]], *, repeats: int, seconds: float
) -> list[list[float]]:
    """Milliseconds of a call, `repeats` times for each, in an order that is turned round each time.

    A timing is the mean of as many calls as take about `seconds`, and of one at least.
    """
    numbers = [max(1, round(seconds / _seconds(call, 1))) for call in map(_warmed, calls)]
    times: list[list[float]] = [[] for _ in calls]
    for repeat in range(repeats):
        order = range(len(calls))
        for at in order if repeat % 2 == 0 else reversed(order):
            times[at].append(1000 * _seconds(calls[at], numbers[at]))
    return times


@contextmanager
def torch_threads(threads: int) -> Iterator[None]:
    """Torch computes with so many, and afterwards with as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _warmed(call: Callable[[], object]) -> Callable[[], object]:
    call()
    return call


def _seconds(call: Callable[[], object], number: int) -> float:
    started = time.perf_counter()
    for _ in range(number):
        call()
    return (time.perf_counter() - started) / number
