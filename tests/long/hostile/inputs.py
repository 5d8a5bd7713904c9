"""A hostile input: bytes for one connection, and the answers that are honest."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

HTTP_OK = frozenset({200})
REJECTED = frozenset(range(400, 500))
SHED = frozenset({503})
ANY = HTTP_OK | REJECTED | SHED
HOST = b"Host: localhost\r\n"


@dataclass(frozen=True, kw_only=True)
class HttpInput:
    """Bytes that are written over one connection.

    Attributes:
        make: creates them; some are large.
        allowed: statuses that are honest. A shed request (503) is, unless the list excludes it.
        requests: whole requests in the bytes, for the limit of processor time.
        end: what the client does after writing. "half" closes its side and reads all; "stay" reads
            until the service closes; "deaf" reads nothing for a while and resets.
        silent: the service may close the connection without an answer.
    """

    kind: str
    name: str
    make: Callable[[], bytes]
    allowed: frozenset[int] = ANY
    requests: int = 1
    end: Literal["half", "stay", "deaf"] = "half"
    silent: bool = False

    def __str__(self) -> str:
        return f"{self.kind}: {self.name}"


def post(target: str, body: bytes, *fields: str, length: int | None = None) -> bytes:
    """Return one POST request; `length` lies about that of the body."""
    size = len(body) if length is None else length
    head = "".join(f"{field}\r\n" for field in fields)
    start = f"POST {target} HTTP/1.1\r\nContent-Length: {size}\r\n{head}"
    return start.encode() + HOST + b"\r\n" + body


def upload(
    kind: str,
    name: str,
    make: Callable[[], bytes],
    allowed: frozenset[int] = ANY,
    *,
    fields: tuple[str, ...] = (),
    target: str = "/predict",
) -> HttpInput:
    """Return an input that posts a body to `target`."""
    return HttpInput(
        kind=kind, name=name, make=lambda: post(target, make(), *fields), allowed=allowed
    )
