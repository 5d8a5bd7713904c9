"""Parser of protobuf messages that limits the memory of a message by its number of bytes."""

from collections.abc import Callable
from typing import Any

from google.protobuf.message import DecodeError

# An empty nested message takes two bytes on the wire, but eighty bytes in memory.
_MAX_FIELDS = 1024
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_MAX_VARINT_BYTES = 10


def reader(message_class: Any) -> Callable[[bytes], Any | None]:
    """Return the request deserialiser for a gRPC server. It returns None for malformed messages.

    gRPC would report an exception in a deserialiser as an internal error of the server.
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
    """Return True if the outermost message is complete and has at most `_MAX_FIELDS` fields."""
    at, end = 0, len(content)
    for _ in range(_MAX_FIELDS):
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
    """Return the number at `at` and the position after it; past the end if it is truncated."""
    value = 0
    for index, byte in enumerate(content[at : at + _MAX_VARINT_BYTES]):
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value, at + index + 1
    return value, len(content) + 1
