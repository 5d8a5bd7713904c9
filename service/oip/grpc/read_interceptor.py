"""Interceptor that bounds the messages of all calls, of every service of the gRPC port."""

import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from service.oip.grpc.read_limits import CallReads, OnRefusal, StreamReads
from service.settings import Settings

HEAD_BYTES = 65_536
"""Allowance for a message beyond the bytes of its tensors: names, shapes and parameters."""
Guard = Callable[[str, Any], Awaitable[None]]
"""Function that is given the method and the context of a call, and aborts it or lets it go on."""
# Unfinished messages of single calls and of streams, as shares of the upload budget. They come on
# top of it.
_CALL_SHARE, _STREAM_SHARE = 0.25, 0.4


class BoundedReading(grpc.aio.ServerInterceptor):  # type: ignore[misc]  # gRPC has no types
    """Interceptor that reads the messages itself, from the moment that a call begins.

    Args:
        on_refusal: called for each error that ends a call here.
        guard: called before the first message of a call; None: every call may go on.
    """

    def __init__(
        self, settings: Settings, on_refusal: OnRefusal, guard: Guard | None = None
    ) -> None:
        self._guard = guard
        messages = settings.max_queued_bytes / (settings.max_bytes + HEAD_BYTES)
        self._calls = CallReads(
            places=max(1, int(_CALL_SHARE * messages)),
            limit_s=settings.timeout_s,
            on_refusal=on_refusal,
        )
        self._streams = StreamReads(
            places=max(1, int(_STREAM_SHARE * messages)),
            limit_s=settings.grpc_idle_s,
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
            bounded = self._handlers[details.method] = self._bounded(handler, details.method)
        return bounded

    def end_late(self) -> None:
        """End the calls whose message takes too long; call this every `TURN_S`."""
        self._calls.end_late()
        self._streams.end_late()

    def _bounded(self, handler: Any, method: str) -> Any:
        """Return a handler that begins with a call's head, and not with its first message."""
        codec = handler.request_deserializer, handler.response_serializer
        if handler.unary_unary is not None:
            call = self._guarded(self._call(handler.unary_unary), method)
            return grpc.stream_unary_rpc_method_handler(call, *codec)
        if handler.unary_stream is not None:
            behavior = self._answers_of_call(handler.unary_stream)
        else:
            behavior = self._answers_of_stream(handler.stream_stream)
        return grpc.stream_stream_rpc_method_handler(self._guarded(behavior, method), *codec)

    def _guarded(self, behavior: Any, method: str) -> Any:
        guard = self._guard
        if guard is None:
            return behavior

        async def call(messages: Any, context: Any) -> Any:
            await guard(method, context)
            return await behavior(messages, context)

        return call

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
        async def call(messages: Any, context: Any) -> None:
            async with (
                self._streams.opened(context) as bounded,
                contextlib.aclosing(behavior(bounded, context)) as answers,
            ):
                async for answer in answers:
                    await context.write(answer)

        return call

    async def _only_message(self, context: Any) -> Any:
        message = await self._calls.read(context)
        if message is grpc.aio.EOF:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the call has no message")
        return message
