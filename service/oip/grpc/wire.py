"""From bytes to messages, of which none gets much larger than its bytes are."""

from collections.abc import Callable
from typing import Any

from google.protobuf.message import DecodeError

# An empty message in a message takes two bytes on the wire, and forty times that in memory.
_MOST_FIELDS = 1024
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_LONGEST_VARINT = 10


def reader(message_class: Any) -> Callable[[bytes], Any | None]:
    """What a gRPC server is to read requests with: None where they are none of `message_class`.

    An error here would be told as one of the server's own.
    """

    def read(content: bytes) -> Any | None:
        if not _few_fields(content):
            return None
        try:
            return message_class.FromString(content)
        except DecodeError:
            return None

    return read


def _few_fields(content: bytes) -> bool:
    """Whether the outermost message is whole, and has no more fields than it may."""
    at, end = 0, len(content)
    for _ in range(_MOST_FIELDS):
        if at == end:
            return True
        tag, at = _varint(content, at)
        kind = tag & 7
        if kind == _VARINT:
            _, at = _varint(content, at)
        elif kind == _LENGTH:
            length, at = _varint(content, at)
            at += length
        elif kind in (_FIXED32, _FIXED64):
            at += 4 if kind == _FIXED32 else 8
        else:
            return False
        if at > end:
            return False
    return at == end


def _varint(content: bytes, at: int) -> tuple[int, int]:
    """The number at a place, and the place behind it: behind the end, where it breaks off."""
    value = 0
    for place, byte in enumerate(content[at : at + _LONGEST_VARINT]):
        value |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            return value, at + place + 1
    return value, len(content) + 1
