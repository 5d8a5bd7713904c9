"""Queue that is shared fairly between callers: one caller's flood does not delay the others."""

import threading
from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class _Flow(Generic[T]):
    """Items of one caller, in the order in which they came."""

    __slots__ = ("items", "start", "weight")

    def __init__(self) -> None:
        self.items: deque[tuple[T, int, float]] = deque()
        self.start = 0.0
        self.weight = 1.0


class FairQueue(Generic[T]):
    """Weighted fair queue, with the virtual time of Goyal, Vin and Cheng (1996), for any thread.

    Each caller has a virtual time, which grows by cost / weight with each of its items. The item
    that would end first is served, so a short one does not wait for a long one. A caller without
    items begins again at the time of the item served last: nobody saves up time by waiting.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._flows: dict[str, _Flow[T]] = {}
        self._waiting: dict[str, _Flow[T]] = {}
        self._now = 0.0

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def put(self, item: T, caller: str, *, weight: float, images: int, cost: float) -> None:
        """Add an item of `images` images; `cost` is the time that it takes, in any unit."""
        with self._lock:
            flow = self._flows.get(caller)
            if flow is None:
                flow = self._flows[caller] = _Flow()
            if not flow.items:
                flow.start = max(flow.start, self._now)
                self._waiting[caller] = flow
            flow.weight = weight
            flow.items.append((item, images, cost))

    def take(self) -> T:
        """Remove the next item and return it.

        Raises:
            IndexError: the queue is empty.
        """
        with self._lock:
            return self._remove(self._next())

    def take_fitting(self, images: float) -> T | None:
        """Remove the next item if it has at most `images` images, and return it, or None."""
        with self._lock:
            caller = self._next()
            return self._remove(caller) if self._waiting[caller].items[0][1] <= images else None

    def heads(self) -> list[T]:
        """Return the oldest item of each caller."""
        with self._lock:
            return [flow.items[0][0] for flow in self._waiting.values()]

    @property
    def images(self) -> int:
        """Number of images of all items."""
        with self._lock:
            return sum([item[1] for flow in self._waiting.values() for item in flow.items])

    def _next(self) -> str:
        if len(self._waiting) == 1:
            return next(iter(self._waiting))
        if not self._waiting:
            raise IndexError("the queue is empty")
        return min(self._waiting, key=self._end)

    def _end(self, caller: str) -> float:
        flow = self._waiting[caller]
        return flow.start + flow.items[0][2] / flow.weight

    def _remove(self, caller: str) -> T:
        flow = self._waiting[caller]
        item, _, cost = flow.items.popleft()
        self._now = max(self._now, flow.start)
        flow.start += cost / flow.weight
        if not flow.items:
            del self._waiting[caller]
        return item
