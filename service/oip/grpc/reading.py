"""Reading of a call's messages, with limits on messages that are not complete.

The gRPC library receives a message whole before it hands it over, and says nothing about a message
that never ends. But it takes more than a window (64 kB) of a stream only while somebody reads from
the stream. So the limit is on the number of streams that are read from.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import grpc

from limelight.errors import LimelightError, Overloaded
from service.http.errors import RequestTimeout
from service.oip.grpc.exchange import status_code
from service.settings import Settings

HEAD_BYTES = 65_536
"""Allowance for a message beyond the bytes of its tensors: names, shapes and parameters."""
# Unfinished messages of single calls, and as many of streams, as a share of the upload budget.
# They come on top of it.
_SHARE = 0.25
# Largest share of the places that the calls of one connection take.
_CONNECTION_SHARE = 0.5
# Calls that wait for a place. Each takes up to a window of its stream.
_MAX_WAITING = 512
# Time after which a read must give its place to others that wait.
_CALL_PATIENCE_S, _STREAM_PATIENCE_S = 2.0, 10.0


@dataclass(slots=True)
class _Connection:
    """Places of the calls of one connection."""

    places: asyncio.Semaphore
    calls: int = 0


@dataclass(slots=True, kw_only=True)
class Reads:
    """Reads that are in progress.

    Args:
        places: most reads at a time.
        wait_s: time that a call waits for a place.
        limit_s: time in which a message must arrive.
        patience_s: the same, while other calls wait for a place.
        on_refusal: called for each error that ends a call here.
    """

    places: int
    wait_s: float
    limit_s: float
    patience_s: float
    on_refusal: Callable[[LimelightError], None]
    _free: asyncio.Semaphore = field(init=False)
    _connections: dict[str, _Connection] = field(init=False, default_factory=dict)
    _since: dict[Any, float] = field(init=False, default_factory=dict)
    _ending: set[asyncio.Task[None]] = field(init=False, default_factory=set)
    # Calls that wait for a place, and those of them whose connection has one left.
    _waiting: int = field(init=False, default=0)
    _queued: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self._free = asyncio.Semaphore(self.places)

    async def read(self, context: Any) -> Any:
        """Read the next message of a call; return `grpc.aio.EOF` if there is none."""
        peer = context.peer()
        connection = self._connections.get(peer)
        if connection is None:
            share = max(1, int(self.places * _CONNECTION_SHARE))
            connection = self._connections[peer] = _Connection(asyncio.Semaphore(share))
        connection.calls += 1
        try:
            await self._enter(context, connection.places)
            try:
                self._since[context] = asyncio.get_running_loop().time()
                return await context.read()
            finally:
                self._since.pop(context, None)
                self._free.release()
                connection.places.release()
        finally:
            connection.calls -= 1
            if not connection.calls:
                del self._connections[peer]

    async def _enter(self, context: Any, places: asyncio.Semaphore) -> None:
        """Wait for one of the connection's places, and for one of all."""
        if not (places.locked() or self._free.locked()):
            await places.acquire()
            await self._free.acquire()
            return
        crowded = Overloaded("too many calls are sending messages: try again", retry_after_s=1)
        if self._waiting >= _MAX_WAITING:
            await self._end(context, crowded)
        self._waiting += 1
        try:
            async with asyncio.timeout(self.wait_s):
                await places.acquire()
                self._queued += 1
                try:
                    await self._free.acquire()
                except BaseException:
                    places.release()
                    raise
                finally:
                    self._queued -= 1
        except TimeoutError:
            await self._end(context, crowded)
        finally:
            self._waiting -= 1

    def end_late(self) -> None:
        """End the calls whose message takes too long; call this regularly."""
        now, wanted = asyncio.get_running_loop().time(), self._queued
        for context, since in list(self._since.items()):  # the oldest first
            error: LimelightError
            if now - since > self.limit_s:
                error = RequestTimeout("the message did not arrive in time: send it faster")
            elif wanted and now - since > self.patience_s:
                error = Overloaded("other calls wait, and no message came", retry_after_s=1)
            else:
                continue
            wanted = max(0, wanted - 1)
            del self._since[context]
            task = asyncio.create_task(self._end_quietly(context, error))
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)

    async def _end(self, context: Any, error: LimelightError) -> None:
        self.on_refusal(error)
        await context.abort(status_code(error), error.detail)

    async def _end_quietly(self, context: Any, error: LimelightError) -> None:
        # The client may end the call at the same time.
        with contextlib.suppress(grpc.aio.AbortError, grpc.aio.BaseError, grpc.aio.UsageError):
            await self._end(context, error)


class BoundedReading(grpc.aio.ServerInterceptor):  # type: ignore[misc]  # gRPC has no types
    """Interceptor that reads the messages of all calls, of every service of the port."""

    def __init__(self, settings: Settings, on_refusal: Callable[[LimelightError], None]) -> None:
        message_bytes = settings.max_bytes + HEAD_BYTES
        places = max(2, int(_SHARE * settings.max_queued_bytes / message_bytes))
        self._calls = Reads(
            places=places,
            wait_s=settings.timeout_s,
            limit_s=settings.timeout_s,
            patience_s=_CALL_PATIENCE_S,
            on_refusal=on_refusal,
        )
        self._streams = Reads(
            places=places,
            wait_s=settings.timeout_s,
            limit_s=settings.grpc_idle_s,
            patience_s=_STREAM_PATIENCE_S,
            on_refusal=on_refusal,
        )
        self._handlers: dict[str, Any] = {}

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Any]], details: Any
    ) -> Any:
        """Return the handler of a method, with bounded reading; None if there is no such method."""
        bounded = self._handlers.get(details.method)
        if bounded is None:
            handler = await continuation(details)
            if handler is None:
                return None
            bounded = self._handlers[details.method] = self._bounded(handler)
        return bounded

    def end_late(self) -> None:
        """End the calls whose message takes too long; call this regularly."""
        self._calls.end_late()
        self._streams.end_late()

    def _bounded(self, handler: Any) -> Any:
        """Return a handler that begins with a call's head, and not with its first message."""
        codec = handler.request_deserializer, handler.response_serializer
        if handler.unary_unary is not None:
            return grpc.stream_unary_rpc_method_handler(self._call(handler.unary_unary), *codec)
        if handler.unary_stream is not None:
            behavior = self._answers_of_call(handler.unary_stream)
        else:
            behavior = self._answers_of_stream(handler.stream_stream)
        return grpc.stream_stream_rpc_method_handler(behavior, *codec)

    def _call(self, behavior: Any) -> Any:
        async def call(messages: Any, context: Any) -> Any:
            return await behavior(await self._only_message(context), context)

        return call

    def _answers_of_call(self, behavior: Any) -> Any:
        async def call(messages: Any, context: Any) -> None:
            message = await self._only_message(context)
            answers = behavior(message, context)
            if not hasattr(answers, "__aiter__"):
                await answers  # writes its answers itself
                return
            async for answer in answers:
                await context.write(answer)

        return call

    def _answers_of_stream(self, behavior: Any) -> Any:
        async def messages_of(context: Any) -> AsyncIterator[Any]:
            while (message := await self._streams.read(context)) is not grpc.aio.EOF:
                yield message

        async def call(messages: Any, context: Any) -> None:
            async with contextlib.aclosing(behavior(messages_of(context), context)) as answers:
                async for answer in answers:
                    await context.write(answer)

        return call

    async def _only_message(self, context: Any) -> Any:
        message = await self._calls.read(context)
        if message is grpc.aio.EOF:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the call has no message")
        return message
