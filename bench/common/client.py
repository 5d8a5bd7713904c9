"""An HTTP client made to cost little, since it shares its cores with the service it loads.

It writes requests that were put together beforehand, reads no more of an answer than counting
needs, and keeps its connections. It never repeats a request: whatever goes wrong is counted.
"""

import asyncio
import re
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, cast

HOST = "127.0.0.1"
LEFT = "left by the client"
_MOST_CONNECTIONS = 8000  # requests that would need one more are counted as failed
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding: *chunked", re.IGNORECASE)
_LAST_CHUNK = b"\r\n0\r\n\r\n"
_CLOSE = re.compile(rb"\r\nconnection: *close", re.IGNORECASE)
_RETRY_AFTER = re.compile(rb"\r\nretry-after: *\d", re.IGNORECASE)
_CODE = re.compile(rb'"code": ?"(\w+)"')


@dataclass(frozen=True, slots=True)
class Call:
    """One request, ready to be written."""

    kind: str
    """Outcomes are counted by it."""
    payload: bytes
    leave_after_s: float | None = None
    """The client hangs up so long after writing; None: it waits for the answer."""


class Outcome(NamedTuple):
    """The end of one request; times are those of `time.perf_counter`."""

    kind: str
    sent_s: float
    """The time when it was written (or wanted, where no connection came about)."""
    seconds: float
    result: str
    """"200", "503 overloaded", or what happened to the connection."""
    retry_after: bool = False


def http_request(
    method: str, target: str, body: bytes = b"", headers: dict[str, str] | None = None
) -> bytes:
    """One HTTP/1.1 request, as it is written."""
    fields = {"Host": HOST, "Content-Length": str(len(body)), **(headers or {})}
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"{method} {target} HTTP/1.1\r\n{head}\r\n".encode() + body


def parse_answer(data: bytes) -> tuple[int, str, bool, bool] | None:
    """Bytes received so far -> (bytes of the answer, result, keep the connection, Retry-After).

    None while the answer is incomplete. A chunked answer ends at its first empty chunk; the JSON of
    servers cannot look like one.

    Raises:
        ValueError: this is not an HTTP answer, or one whose length is not given.
    """
    head_end = data.find(b"\r\n\r\n")
    if head_end < 0:
        return None
    head = data[: head_end + 2]
    length, end = _LENGTH.search(head), 0
    if length is not None:
        end = head_end + 4 + int(length[1])
    elif _CHUNKED.search(head):
        end = data.find(_LAST_CHUNK, head_end + 2) + len(_LAST_CHUNK)
        if end < len(_LAST_CHUNK):
            return None
    if not end or not head.startswith(b"HTTP/1."):
        raise ValueError(f"not understood: {head[:60]!r}")
    if len(data) < end:
        return None
    result = head[9:12].decode()
    if result != "200" and (code := _CODE.search(data, head_end)):
        result = f"{result} {code[1].decode()}"
    return end, result, _CLOSE.search(head) is None, _RETRY_AFTER.search(head) is not None


class Connection(asyncio.Protocol):
    """One keep-alive connection with at most one request under way."""

    def __init__(self, client: "Client") -> None:
        self._client = client
        self._received = b""
        self._sent_s = 0.0
        self._transport: asyncio.Transport
        self.call: Call | None = None
        """The request under way."""
        self.open = True

    @property
    def port(self) -> int:
        """The client's own port, by which the kernel names the connection."""
        return int(self._transport.get_extra_info("sockname")[1])

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are none of asyncio's classes, and do what these do.
        self._transport = cast(asyncio.Transport, transport)

    def send(self, call: Call) -> None:
        self.call, self._received = call, b""
        self._sent_s = time.perf_counter()
        self._transport.write(call.payload)
        if call.leave_after_s is not None:
            asyncio.get_running_loop().call_later(call.leave_after_s, self.leave)

    def leave(self, result: str = LEFT) -> None:
        """Hang up, and count a request under way as `result`."""
        if self.open:
            self._lost(result)
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self._received += data
        try:
            answer = parse_answer(self._received)
        except ValueError as error:
            self._lost(str(error))
            self._transport.abort()
            return
        if answer is None or self.call is None:
            return
        _, result, keep, retry_after = answer
        call, self.call = self.call, None
        seconds = time.perf_counter() - self._sent_s
        # One who is about to leave has no next request.
        self.open = keep and call.leave_after_s is None
        if not self.open:
            self._transport.close()
        self._client.finished(Outcome(call.kind, self._sent_s, seconds, result, retry_after), self)

    def connection_lost(self, error: Exception | None) -> None:
        reset = isinstance(error, ConnectionResetError | BrokenPipeError)
        self._lost("reset before the answer" if reset else "closed before the answer")

    def _lost(self, result: str) -> None:
        self.open = False
        self._client.connections.discard(self)
        call, self.call = self.call, None
        if call is not None:
            seconds = time.perf_counter() - self._sent_s
            self._client.finished(Outcome(call.kind, self._sent_s, seconds, result), self)


class Client:
    """Sends requests to a port of loopback over as many connections as it takes."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._idle: deque[Connection] = deque()
        self._opening: set[asyncio.Task[None]] = set()
        self.connections: set[Connection] = set()
        self.outcomes: list[Outcome] = []
        self.under_way = 0
        self.on_answer: Callable[[], object] = lambda: None

    def send(self, call: Call) -> None:
        """Write a request now, or as soon as there is a connection for it."""
        self.under_way += 1
        while self._idle:
            connection = self._idle.popleft()
            if connection.open:
                connection.send(call)
                return
        task = asyncio.get_running_loop().create_task(self._open(call))
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    def finished(self, outcome: Outcome, connection: Connection | None) -> None:
        """Count a request that has ended, and use its connection again if it is open."""
        self.under_way -= 1
        self.outcomes.append(outcome)
        if connection is not None and connection.open:
            self._idle.append(connection)
        self.on_answer()

    async def finish(self, timeout_s: float = 30) -> None:
        """Wait for what is under way, count what takes longer as unanswered, and hang up."""
        end_s = time.perf_counter() + timeout_s
        while self.under_way and time.perf_counter() < end_s:
            await asyncio.sleep(0.005)
        for task in list(self._opening):
            task.cancel()
        for connection in list(self.connections):
            connection.leave("no answer")
        await asyncio.sleep(0.05)

    async def _open(self, call: Call) -> None:
        wanted_s = time.perf_counter()

        def failed(result: str) -> None:
            seconds = time.perf_counter() - wanted_s
            self.finished(Outcome(call.kind, wanted_s, seconds, result), None)

        if len(self.connections) + len(self._opening) > _MOST_CONNECTIONS:
            failed("the client has no connection left")
            return
        loop = asyncio.get_running_loop()
        try:
            _, connection = await loop.create_connection(lambda: Connection(self), HOST, self._port)
        except OSError as error:
            failed(f"not connected ({type(error).__name__})")
        except asyncio.CancelledError:
            failed("not connected in time")
        else:
            self.connections.add(connection)
            connection.send(call)
