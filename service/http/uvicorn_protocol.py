"""Shortcuts past ASGI: write a whole response in one piece, and reject a request at its head.

Both use the objects of uvicorn's httptools protocol. Under any other server, requests take the
normal ASGI path.
"""

import logging
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, cast

from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

if TYPE_CHECKING:
    from service.http.messages import Header, Response

EarlyRejection = Callable[[Scope, Receive], "tuple[Response, Iterable[Header]] | None"]
"""Function that rejects a request by its head: the response and additional headers, or None."""

CLOSE = (b"connection", b"close")


class Protocol(HttpToolsProtocol):
    """Uvicorn's protocol, with rejection of a request before a task is created for it.

    Under overload most requests are rejected, and the time for that is lost to the others.
    """

    def __init__(self, *arguments: Any, reject_early: EarlyRejection, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._reject_early = reject_early

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        # Pipelined requests, and clients that wait for "100 Continue", take the normal path.
        if _writes_only(cycle) and not (self.pipeline or cycle.waiting_for_100_continue):
            # Starlette and uvicorn declare different types for the same objects.
            scope, receive = cast(Scope, cycle.scope), cast(Receive, cycle.receive)
            rejection = self._reject_early(scope, receive)
            if rejection is not None:
                response, extra = rejection
                write_whole(cycle, response, extra)
                return
        super()._start_asgi_task(cycle, app)


def cycle_behind(send: Send) -> RequestResponseCycle | None:
    """Return uvicorn's object for the request of `send`; None if `write_whole` cannot use it."""
    cycle = getattr(send, "__self__", None)
    return cycle if isinstance(cycle, RequestResponseCycle) and _writes_only(cycle) else None


def write_whole(
    cycle: RequestResponseCycle,
    response: "Response",
    extra: "Iterable[Header]" = (),
    *,
    head_only: bool = False,
) -> None:
    """Write a whole response, head and body in one piece.

    Two separate writes would be two packets, and two system calls on either side.

    Raises:
        ValueError: a header contains a line break.
    """
    if cycle.disconnected:
        return
    headers = [*cycle.default_headers, *response.all_headers(), *extra]
    if CLOSE in headers:
        cycle.keep_alive = False
    elif not cycle.keep_alive:
        headers.append(CLOSE)
    head = b"\r\n".join([b"%s: %s" % header for header in headers])
    breaks = len(headers) - 1
    if head.count(b"\n") != breaks or head.count(b"\r") != breaks:
        raise ValueError(f"a header has a line break in it: {headers}")
    cycle.response_started = cycle.response_complete = True
    cycle.waiting_for_100_continue = False
    cycle.message_event.set()
    body = b"" if head_only else response.body
    cycle.transport.write(b"".join((STATUS_LINE[response.status], head, b"\r\n\r\n", body)))
    if not cycle.keep_alive:
        cycle.transport.close()
    cycle.on_response()


def _writes_only(cycle: RequestResponseCycle) -> bool:
    """Return True if uvicorn need not log the request, nor wait for the client to read."""
    logs = cycle.access_log and cycle.access_logger.isEnabledFor(logging.INFO)
    return not (logs or cycle.flow.write_paused)
