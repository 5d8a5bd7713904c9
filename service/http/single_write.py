"""Response in one write, past uvicorn's ASGI messages.

It uses the objects of uvicorn's httptools protocol. Under any other server, a response takes the
normal ASGI path.
"""

import logging

from starlette.types import Send
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from service.headers import CLOSE, Header


def cycle_behind(send: Send) -> RequestResponseCycle | None:
    """Return uvicorn's object for the request of `send`; None if `write_whole` cannot use it."""
    cycle = getattr(send, "__self__", None)
    return cycle if isinstance(cycle, RequestResponseCycle) and writes_only(cycle) else None


def writes_only(cycle: RequestResponseCycle) -> bool:
    """Return True if uvicorn need not log the request, nor wait for the client to read."""
    logs = cycle.access_log and cycle.access_logger.isEnabledFor(logging.INFO)
    return not (logs or cycle.flow.write_paused)


def write_whole(
    cycle: RequestResponseCycle, status: int, headers: list[Header], body: bytes
) -> None:
    """Write a whole response, head and body in one piece.

    `headers` has all of them but `connection`, which is appended if the connection is closed.

    Two separate writes would be two packets, and two system calls on either side.

    Raises:
        ValueError: a header contains a line break.
    """
    if cycle.disconnected:
        return
    if cycle.waiting_for_100_continue and cycle.more_body:
        cycle.keep_alive = False  # the client may send the body, or the next request
    if CLOSE in headers:
        cycle.keep_alive = False
    elif not cycle.keep_alive:
        headers.append(CLOSE)
    message = encode(status, headers, body)
    cycle.response_started = cycle.response_complete = True
    cycle.waiting_for_100_continue = False
    cycle.message_event.set()
    cycle.transport.write(message)
    if not cycle.keep_alive:
        cycle.transport.close()
    cycle.on_response()


def encode(status: int, headers: list[Header], body: bytes) -> bytes:
    """Return the bytes of a response.

    Raises:
        ValueError: a header contains a line break.
    """
    head = b"\r\n".join([b"%s: %s" % header for header in headers])
    breaks = len(headers) - 1
    if head.count(b"\n") != breaks or head.count(b"\r") != breaks:
        raise ValueError(f"a header has a line break in it: {headers}")
    return b"".join((STATUS_LINE[status], head, b"\r\n\r\n", body))
