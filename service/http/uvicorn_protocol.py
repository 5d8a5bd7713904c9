"""What ASGI has no words for: a whole answer in one piece, and a request refused at its head.

Both go to the objects of uvicorn's httptools protocol, where that is what serves; under any other
server everything takes ASGI's way.
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

TurnAway = Callable[[Scope, Receive], "tuple[Response, Iterable[Header]] | None"]
"""Refuses a request whose head has arrived, with further headers; None: it is to be served."""

CLOSE = (b"connection", b"close")


class Protocol(HttpToolsProtocol):
    """Uvicorn's own, but that a request may be turned away before there is a task for it.

    When too much is asked, most requests come to this, and what it takes is taken from those that
    are served.
    """

    def __init__(self, *arguments: Any, turn_away: TurnAway, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._turn_away = turn_away

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        # A row of requests on one connection, or a client that waits to be asked for the body, is
        # nothing to be quick about.
        if _writes_only(cycle) and not (self.pipeline or cycle.waiting_for_100_continue):
            # The same to Starlette and uvicorn, who write it down as different types.
            scope, receive = cast(Scope, cycle.scope), cast(Receive, cycle.receive)
            answer = self._turn_away(scope, receive)
            if answer is not None:
                response, extra = answer
                write_whole(cycle, response, extra)
                return
        super()._start_asgi_task(cycle, app)


def cycle_behind(send: Send) -> RequestResponseCycle | None:
    """Uvicorn's note of the request that `send` answers, where `write_whole` can be used on it."""
    cycle = getattr(send, "__self__", None)
    return cycle if isinstance(cycle, RequestResponseCycle) and _writes_only(cycle) else None


def write_whole(
    cycle: RequestResponseCycle,
    response: "Response",
    extra: "Iterable[Header]" = (),
    *,
    head_only: bool = False,
) -> None:
    """Write a whole answer, its head and body in one piece.

    Written apart they are two packets, two system calls here and two for the client.

    Raises:
        ValueError: a header has a line break in it.
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
    """Whether uvicorn has nothing to do for an answer but to write it, and at once."""
    logs = cycle.access_log and cycle.access_logger.isEnabledFor(logging.INFO)
    return not (logs or cycle.flow.write_paused)
