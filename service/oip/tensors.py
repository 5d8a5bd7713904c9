"""Readers and writers of tensor contents. They allocate no more than the received bytes justify."""

import base64
import math
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.oip.errors import InvalidInference
from service.oip.types import InputTensor, Raw

LENGTH_BYTES = 4
"""Size of the length before each element of BYTES, little-endian."""

_URL_SAFE = bytes.maketrans(b"-_", b"+/")
_LINE_BREAKS = b" \t\r\n"
# Escapes that base64 can have in a URL. Python's `unquote` takes seconds for millions of others.
_ESCAPED = {"%2B": "+", "%2F": "/", "%3D": "=", "%20": " ", "%0D": "\r", "%0A": "\n"}


def read_uint8(tensor: InputTensor) -> NDArray[np.uint8]:
    """Return an array of the tensor's shape; for raw content, the array is a view.

    Raises:
        InvalidInference: the number of elements is wrong, or one is not an integer from 0 to 255.
    """
    content = tensor.content
    if not isinstance(content, bytes | memoryview):
        # The outer list has at most as many entries as elements. Check this before flattening.
        _check_count(tensor, len(content), at_most=True)
        content = _whole_numbers(tensor.name, content)
    _check_count(tensor, len(content))
    return np.frombuffer(content, np.uint8).reshape(tensor.shape)


def read_bytes(tensor: InputTensor) -> list[bytes]:
    """Return the elements of a BYTES tensor. Strings, as in JSON, are base64; see `read_base64`.

    Raises:
        InvalidInference: the number of elements is wrong, or one is truncated or malformed.
    """
    content = tensor.content
    if isinstance(content, bytes | memoryview):
        elements = _split(tensor.name, content, math.prod(tensor.shape))
    else:
        _check_count(tensor, len(content), at_most=True)
        elements = [_element(tensor.name, value) for value in _flat(content)]
    _check_count(tensor, len(elements))
    return elements


def read_base64(text: str) -> bytes:
    """Decode base64 (RFC 4648), of either alphabet, wrapped or not, with or without padding.

    A data URL (RFC 2397) may contain it.

    Raises:
        ValueError: the text is not base64, or the data URL has another encoding.
    """
    if text[:5].lower() == "data:":
        head, comma, text = text.partition(",")
        if not comma or not head.lower().endswith(";base64"):
            raise ValueError("a data URL without base64")
        for escaped, character in _ESCAPED.items():
            text = text.replace(escaped, character).replace(escaped.lower(), character)
    content = text.encode("ascii").translate(_URL_SAFE, delete=_LINE_BREAKS)
    return base64.b64decode(content + b"=" * (-len(content) % 4), validate=True)


def write_bytes(elements: Iterable[bytes]) -> bytes:
    """Return elements of BYTES as raw content."""
    return b"".join(
        part
        for element in elements
        for part in (len(element).to_bytes(LENGTH_BYTES, "little"), element)
    )


def _check_count(tensor: InputTensor, found: int, *, at_most: bool = False) -> None:
    count = math.prod(tensor.shape)
    if found > count or (found < count and not at_most):
        raise InvalidInference(
            f"input {tensor.name!r} has {found} elements, and its shape {list(tensor.shape)} "
            f"requires {count}"
        )


def _split(name: str, content: Raw, count: int) -> list[bytes]:
    """Split raw content into at most `count` + 1 elements: empty ones must not fill memory."""
    elements: list[bytes] = []
    at, end = 0, len(content)
    while at < end and len(elements) <= count:
        start = at + LENGTH_BYTES
        length = int.from_bytes(content[at:start], "little")
        if start > end or length > end - start:
            raise InvalidInference(
                f"input {name!r} is truncated in element {len(elements)}: each element is preceded "
                "by its length, 4 bytes, little-endian"
            )
        at = start + length
        elements.append(bytes(content[start:at]))
    return elements


def _element(name: str, value: object) -> bytes:
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        try:
            return read_base64(value)
        except ValueError as error:
            raise InvalidInference(
                f"input {name!r} is not base64: send images in JSON as base64"
            ) from error
    raise InvalidInference(f"input {name!r} must hold strings")


def _whole_numbers(name: str, values: Sequence[Any]) -> bytes:
    numbers = _flat(values)
    kinds = set(map(type, numbers))  # exact types: isinstance would accept bool as int
    if kinds == {float} or kinds == {int, float}:
        # JSON does not distinguish integers from floats, and some clients write 1 as 1.0.
        numbers = [int(number) if number % 1 == 0 else None for number in numbers]
    try:
        if not kinds <= {int, float}:
            raise TypeError("not numbers")
        return bytes(numbers)
    except (TypeError, ValueError) as error:
        raise InvalidInference(
            f"input {name!r} must hold whole numbers from 0 to 255, and nothing else"
        ) from error


def _flat(values: Sequence[Any]) -> list[Any]:
    """Return the values of nested lists in row-major order."""
    flat = list(values)
    while flat and set(map(type, flat)) == {list}:
        flat = list(chain.from_iterable(flat))
    return flat
