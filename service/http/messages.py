"""A request and a response, as little of each as the hot path needs."""

import functools
import random
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from urllib.parse import parse_qsl

from starlette.types import Receive, Scope, Send

from limelight.errors import InvalidParameter
from service.http.uvicorn_protocol import cycle_behind, write_whole
from service.request_context import RequestContext

Header = tuple[bytes, bytes]
"""Name in lower case, and value; as ASGI has them."""

_LONGEST_ID = 128
_ID_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.:/+=")


class Request:
    """An ASGI request; what is read from it is parsed when it is asked for."""

    __slots__ = ("_exchange", "context", "headers", "method", "path", "receive", "scope")

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self.scope, self.receive = scope, receive
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        # Of a header that is repeated the last counts, as the servers before us do it.
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        self._exchange = getattr(receive, "__self__", None)
        # Not a method of this request: it would hold itself, and wait for a garbage collection.
        self.context = RequestContext(
            id=choose_id(self.headers.get(b"x-request-id")),
            gone=functools.partial(_gone, self._exchange),
        )

    def header(self, name: bytes, default: str = "") -> str:
        """The value of a header, whose name is given in lower case."""
        value = self.headers.get(name)
        return default if value is None else value.decode("latin-1")

    @property
    def query(self) -> Mapping[str, str]:
        """The query's parameters; of one that is repeated the last counts."""
        return _parse_query(self.scope["query_string"])

    @property
    def declared_length(self) -> bytes:
        """What Content-Length says, in digits or not; empty where it says nothing."""
        return self.headers.get(b"content-length", b"")

    def arrived(self) -> bool:
        """Whether the whole body is there for certain, so that reading it will not wait."""
        return getattr(self._exchange, "more_body", True) is False

    def set_deadline(self, timeout_s: float) -> None:
        """From the service's own limit, which X-Timeout-Ms can shorten.

        Raises:
            InvalidParameter: the header is not a positive number.
        """
        text = self.headers.get(b"x-timeout-ms")
        if text is not None:
            try:
                asked_s = float(text) / 1000
            except ValueError:
                asked_s = -1.0
            if not asked_s > 0:
                raise InvalidParameter(
                    f"X-Timeout-Ms is {text[:100].decode('latin-1')!r}, and must be a positive "
                    "number of milliseconds"
                )
            timeout_s = min(timeout_s, asked_s)
        self.context.deadline = self.context.started + timeout_s

    def remaining_s(self) -> float:
        """Seconds until the deadline."""
        return self.context.deadline - time.perf_counter()


@dataclass(slots=True)
class Response:
    """A whole answer; header names and values are bytes, as ASGI wants them."""

    body: bytes
    status: int = 200
    media_type: bytes = b"application/json"
    headers: Iterable[Header] = ()

    def all_headers(self) -> list[Header]:
        """Those of its body, and its own."""
        length = str(len(self.body)).encode()
        return [(b"content-length", length), (b"content-type", self.media_type), *self.headers]

    async def send(
        self, send: Send, *, extra: Iterable[Header] = (), head_only: bool = False
    ) -> None:
        """Send it, with `extra` headers; with `head_only`, the headers of the whole alone."""
        cycle = cycle_behind(send)
        if cycle is not None:
            write_whole(cycle, self, extra, head_only=head_only)
            return
        headers = [*self.all_headers(), *extra]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if head_only else self.body})


def _gone(exchange: object) -> bool:
    """Whether the client has closed its connection.

    ASGI would tell whoever waits for a message, at the cost of a task a request; uvicorn's own
    note of it, beside the method that we were given, costs nothing.
    """
    return bool(getattr(exchange, "disconnected", False))


@functools.lru_cache(maxsize=1024)
def _parse_query(text: bytes) -> Mapping[str, str]:
    """Remembered, because the same few come again and again."""
    return MappingProxyType(dict(parse_qsl(text.decode("latin-1"), keep_blank_values=True)))


def choose_id(given: bytes | None) -> str:
    """A request's id: the client's own, where it is one that a log can hold; else a new one."""
    if given is not None and len(given) <= _LONGEST_ID:
        text = given.decode("latin-1")
        if text and _ID_CHARACTERS.issuperset(text):
            return text
    # Not a secret; and asking the kernel for randomness would give up the interpreter's lock.
    return f"{random.getrandbits(128):032x}"
