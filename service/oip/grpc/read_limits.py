"""Reading of a call's messages, with limits on messages that are not complete.

The gRPC library receives a message whole before it hands it over, and says nothing about a message
that never ends. But it takes more than a window (64 kB) of a stream only while somebody reads from
the stream. So the limits are on reads: their number, if they take long, and their time.
"""

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import grpc

from limelight.errors import LimelightError, Overloaded
from service.errors import RequestTimeout
from service.oip.grpc.exchange import status_code

TURN_S = 0.05
"""Interval at which `BoundedReading.end_late` must be called."""
# Age in turns of a read that counts. A message that has arrived is read in less, also if the event
# loop is late, because the turns are late too.
_COUNTED_TURNS = 3
_MAX_READS = 1024
# Time after which a stream without messages must give its place to another one.
_STREAM_PATIENCE_S = 10.0

OnRefusal = Callable[[LimelightError], None]


class _Calls:
    """Calls that end here, with the error that a client gets."""

    def __init__(self, on_refusal: OnRefusal) -> None:
        self._on_refusal = on_refusal
        self._ending: set[asyncio.Task[None]] = set()

    async def end(self, context: Any, error: LimelightError) -> None:
        """End the call that runs this.

        Raises:
            AbortError: always; gRPC expects it from the call.
        """
        self._on_refusal(error)
        await context.abort(status_code(error), error.detail)

    def end_other(self, context: Any, error: LimelightError) -> None:
        """End another call; what it waits for is then over."""
        task = asyncio.create_task(self._end_quietly(context, error))
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def _end_quietly(self, context: Any, error: LimelightError) -> None:
        # The client may end the call at the same time.
        with contextlib.suppress(grpc.aio.AbortError, grpc.aio.BaseError, grpc.aio.UsageError):
            await self.end(context, error)


class CallReads(_Calls):
    """Reads of the message of single calls.

    Args:
        places: most reads that take longer than a moment.
        limit_s: time in which a message must arrive.
        on_refusal: called for each error that ends a call here.
    """

    def __init__(self, *, places: int, limit_s: float, on_refusal: OnRefusal) -> None:
        super().__init__(on_refusal)
        self._places = places
        self._limit = limit_s / TURN_S
        self._turn = 0
        self._begun: dict[Any, int] = {}

    async def read(self, context: Any) -> Any:
        """Read the message of a call; return `grpc.aio.EOF` if there is none."""
        if len(self._begun) >= _MAX_READS:
            await self.end(context, _crowded())
        self._begun[context] = self._turn
        try:
            return await context.read()
        finally:
            self._begun.pop(context, None)

    def end_late(self) -> None:
        """End the calls whose message takes too long; call this in every turn."""
        self._turn += 1
        counted = []
        for context, turn in list(self._begun.items()):  # the oldest first
            if self._turn - turn > self._limit:
                error = RequestTimeout("the message did not arrive in time: send it faster")
                del self._begun[context]
                self.end_other(context, error)
            elif self._turn - turn >= _COUNTED_TURNS:
                counted.append(context)
        for context in _of_largest(counted, len(counted) - self._places):
            del self._begun[context]
            self.end_other(context, _crowded())


class StreamReads(_Calls):
    """Reads of streams; a stream reads almost always, and takes nothing while no message arrives.

    Args:
        places: most open streams.
        limit_s: time after which a stream without messages is ended.
        on_refusal: called for each error that ends a stream here.
    """

    def __init__(self, *, places: int, limit_s: float, on_refusal: OnRefusal) -> None:
        super().__init__(on_refusal)
        self._places = places
        self._limit_s = limit_s
        self._open = 0
        self._since: dict[Any, float] = {}

    @contextlib.asynccontextmanager
    async def opened(self, context: Any) -> AsyncIterator[AsyncIterator[Any]]:
        """Count a stream as open; give its messages."""
        if self._open >= self._places and not self._end_first(_STREAM_PATIENCE_S, _crowded()):
            await self.end(context, _crowded())
        self._open += 1
        try:
            yield self._messages(context)
        finally:
            self._open -= 1

    def end_late(self) -> None:
        """End the streams that had no message for too long; call this regularly."""
        self._end_first(self._limit_s, RequestTimeout("no message came: open another stream"))

    async def _messages(self, context: Any) -> AsyncIterator[Any]:
        while (message := await self._read(context)) is not grpc.aio.EOF:
            yield message

    async def _read(self, context: Any) -> Any:
        self._since[context] = asyncio.get_running_loop().time()
        try:
            return await context.read()
        finally:
            self._since.pop(context, None)

    def _end_first(self, idle_s: float, error: LimelightError) -> bool:
        """End the stream that has waited for longest, if that is more than `idle_s`."""
        now = asyncio.get_running_loop().time()
        context, since = next(iter(self._since.items()), (None, now))
        if now - since <= idle_s:
            return False
        del self._since[context]
        self.end_other(context, error)
        return True


def _crowded() -> Overloaded:
    return Overloaded("too many calls are sending messages: try again", retry_after_s=1)


def _of_largest(contexts: list[Any], number: int) -> Iterator[Any]:
    """Return `number` of the calls: always the oldest of the connection that has most of them."""
    if number <= 0:
        return
    by_connection: defaultdict[str, list[Any]] = defaultdict(list)
    for context in contexts:
        by_connection[context.peer()].append(context)
    for _ in range(number):
        yield max(by_connection.values(), key=len).pop(0)
