"""Closing of a connection so that the client receives all of its responses."""

import socket
import sys
from asyncio import Transport
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from service.http.bounded_parser import BoundedParser

# The first bytes of every response. Writing them finds out whether a client still waits for it.
_BEGINNING = b"HTTP/1.1 "
# Time after the end of a client's input; most responses are complete by then.
_FIRST_LOOK_S = 0.05
_NEXT_LOOK_S = 0.02
_TCP_CLOSED = 7


@dataclass(slots=True)
class Wire:
    """Transport as uvicorn's objects see it: `write` and `close` are those of the protocol."""

    write: Callable[[bytes], None]
    close: Callable[[], None]
    is_closing: Callable[[], bool]


class ClosingProtocol(BoundedParser):
    """Protocol that closes a connection only after the client could read the last response.

    The kernel answers bytes that nobody reads with a reset, and the client then loses a response
    that it has not read. So the connection is first closed for writing, and what the client still
    sends is discarded (RFC 9112, 9.6).

    A client may close its side after its request, and wait for the response. A client that has left
    looks the same. So the beginning of the response is sent early: the kernel of a client that has
    left answers it with a reset.

    Attributes:
        written_bytes: bytes of all responses so far.
        lingering: True while the bytes that the client still sends are discarded.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.written_bytes = 0
        self.lingering = False
        self._raw: Transport
        self._begun = False
        self._half_closed = False
        self._answering: RequestResponseCycle | None = None

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._raw = transport
        self.transport = cast(Transport, Wire(self._write, self._close, self._is_closing))

    def connection_lost(self, exc: Exception | None) -> None:
        self.input_closed = True
        super().connection_lost(exc)
        # Uvicorn tells the newest request only.
        for cycle in (self._answering, *(cycle for cycle, _ in self.pipeline)):
            if cycle is not None and not cycle.response_complete:
                abandon(cycle)
        self.pipeline.clear()
        self._held = b""

    def eof_received(self) -> bool:  # type: ignore[override]
        """Keep the connection for the responses that a half-closing client still waits for."""
        incomplete = self._body_is_missing() and not self.cycle.response_complete
        if incomplete and self.pipeline:
            self.pipeline.popleft()
        elif incomplete or self.lingering or not self.is_answering() or self.scheme == "https":
            return False
        self._half_closed = True
        self.loop.call_later(_FIRST_LOOK_S, self._look_for_client)
        return True

    def on_response_complete(self) -> None:
        """Continue with the next request, or close the connection that has none."""
        self.server_state.total_requests += 1
        if self._is_closing():
            return
        if self.pipeline:
            cycle, app = self.pipeline.pop()
            self._start_asgi_task(cycle, app)
        elif self._half_closed and not self._held:
            self._raw.close()
            return
        else:
            self.since = self.loop.time()
        if self._held:
            # In the next turn of the loop: it may complete more responses.
            self.loop.call_soon(self.continue_parsing)
        elif not self.pipeline:
            self.flow.resume_reading()

    def shutdown(self) -> None:
        """Close the connection if it is idle, else after the response."""
        if self.is_answering():
            self.cycle.keep_alive = False
        elif not self.lingering:
            self._raw.close()

    def is_answering(self) -> bool:
        """Return True if there are requests without a complete response."""
        cycle = self._answering
        waiting = cycle is not None and not (cycle.response_complete or cycle.disconnected)
        return waiting or bool(self.pipeline or self._held)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._answering = cycle
        super()._start_asgi_task(cycle, app)

    def _write(self, data: bytes) -> None:
        self.written_bytes += len(data)
        if self._begun:
            self._begun, data = False, data[len(_BEGINNING) :]
        self._raw.write(data)

    def _is_closing(self) -> bool:
        return self.lingering or self._raw.is_closing()

    def _close(self) -> None:
        if self._is_closing():
            return
        unread, self.input_closed, self._held = self.unread, True, b""
        if not unread:
            self._raw.close()
            return
        self.lingering, self.since = True, self.loop.time()
        if self._raw.can_write_eof():
            self._raw.write_eof()
        self.flow.resume_reading()

    def _look_for_client(self) -> None:
        """Close the connection if the client has left: its kernel has sent a reset."""
        if self._raw.is_closing():
            return
        if _is_closed(self._raw.get_extra_info("socket")):
            self._raw.abort()
            return
        cycle = self._answering
        if not self._begun and cycle is not None and not cycle.response_started:
            self._raw.write(_BEGINNING)
            self._begun = True
        self.loop.call_later(_NEXT_LOOK_S, self._look_for_client)


def abandon(cycle: RequestResponseCycle) -> None:
    """Tell the application that the client of a request has left."""
    cycle.disconnected = True
    cycle.message_event.set()


def _is_closed(connection: Any) -> bool:
    if sys.platform != "linux" or connection.family not in (socket.AF_INET, socket.AF_INET6):
        return False
    state: bytes = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)
    return state[0] == _TCP_CLOSED
