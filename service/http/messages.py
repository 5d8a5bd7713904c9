"""Minimal request and response classes for the hot path."""

import functools
import random
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from urllib.parse import parse_qsl

from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from limelight.errors import InvalidParameter
from service.headers import NOSNIFF, Header
from service.http.single_write import cycle_behind, write_whole
from service.request_context import RequestContext

MAX_CACHED_TEXT = 256
"""Length of the longest text of a client that is kept as the key of a cache."""
_MAX_ID_LENGTH = 128
_ID_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.:/+=")


class Request:
    """ASGI request. Its query and headers are parsed on access."""

    __slots__ = ("_cycle", "context", "headers", "method", "path", "receive", "scope")

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self.scope, self.receive = scope, receive
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        # If a header is repeated, the last value counts, as in the servers in front of this one.
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        self._cycle = getattr(receive, "__self__", None)
        # A bound method of this request would make a reference cycle.
        self.context = RequestContext(
            id=choose_id(self.headers.get(b"x-request-id")),
            gone=functools.partial(_is_gone, self._cycle),
        )

    def header(self, name: bytes, default: str = "") -> str:
        """Return the value of a header; `name` is in lower case."""
        value = self.headers.get(name)
        return default if value is None else value.decode("latin-1")

    @property
    def query(self) -> Mapping[str, str]:
        """Parameters of the query string. If one is repeated, the last value counts."""
        text = self.scope["query_string"]
        return (_cached_query if len(text) <= MAX_CACHED_TEXT else _parse_query)(text)

    @property
    def declared_length(self) -> bytes:
        """Value of Content-Length, not validated; empty if the header is missing."""
        return self.headers.get(b"content-length", b"")

    def arrived(self) -> bool:
        """Return True if the whole body has certainly arrived, so that reading it does not wait."""
        return getattr(self._cycle, "more_body", True) is False

    def set_deadline(self, timeout_s: float) -> None:
        """Set the deadline from the service's time limit, which X-Timeout-Ms can shorten.

        Raises:
            InvalidParameter: the header is not a positive number.
        """
        text = self.headers.get(b"x-timeout-ms")
        if text is not None:
            try:
                requested_s = float(text) / 1000
            except ValueError:
                requested_s = -1.0
            if not requested_s > 0:
                raise InvalidParameter(
                    f"X-Timeout-Ms is {text[:100].decode('latin-1')!r}, and must be a positive "
                    "number of milliseconds"
                )
            timeout_s = min(timeout_s, requested_s)
        self.context.deadline = self.context.started + timeout_s

    def remaining_s(self) -> float:
        """Return the seconds until the deadline."""
        return self.context.deadline - time.perf_counter()


@dataclass(slots=True)
class Response:
    """Whole response; header names and values are bytes, as in ASGI."""

    body: bytes
    status: int = 200
    media_type: bytes = b"application/json"
    headers: Iterable[Header] = ()

    def all_headers(self) -> list[Header]:
        """Return the headers of the body and the additional headers."""
        length = str(len(self.body)).encode()
        content = (b"content-length", length), (b"content-type", self.media_type)
        return [*content, NOSNIFF, *self.headers]

    def write(
        self, cycle: RequestResponseCycle, extra: Iterable[Header] = (), *, head_only: bool = False
    ) -> None:
        """Write the response at once, as `send` does where it can."""
        body = b"" if head_only else self.body
        headers = [*cycle.default_headers, *self.all_headers(), *extra]
        write_whole(cycle, self.status, headers, body)

    async def send(
        self, send: Send, *, extra: Iterable[Header] = (), head_only: bool = False
    ) -> None:
        """Send the response with `extra` headers; with `head_only`, send no body (HEAD)."""
        cycle = cycle_behind(send)
        if cycle is not None:
            self.write(cycle, extra, head_only=head_only)
            return
        headers, body = [*self.all_headers(), *extra], b"" if head_only else self.body
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def _is_gone(cycle: object) -> bool:
    """Return True if the client has closed its connection.

    With ASGI alone, this needs a task per request that waits for a message. Uvicorn's object behind
    `receive` has the same information as an attribute.
    """
    return bool(getattr(cycle, "disconnected", False))


def _parse_query(text: bytes) -> Mapping[str, str]:
    return MappingProxyType(
        dict(parse_qsl(text.decode("utf-8", "replace"), keep_blank_values=True))
    )


# The same few queries repeat.
_cached_query = functools.lru_cache(maxsize=1024)(_parse_query)


def choose_id(given: bytes | None) -> str:
    """Return the ID that the client sent if it is safe to log, else a random ID."""
    if given is not None and len(given) <= _MAX_ID_LENGTH:
        text = given.decode("latin-1")
        if text and _ID_CHARACTERS.issuperset(text):
            return text
    # Not a secret. Randomness from the kernel would release the interpreter lock.
    return f"{random.getrandbits(128):032x}"
