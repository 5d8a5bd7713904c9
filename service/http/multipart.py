"""Parser of multipart/form-data (RFC 7578) that is already in memory: no temporary files."""

import logging
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from service.errors import InvalidMultipart

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

# The parser logs what is wrong with a form. That is the client's mistake, which the answer names.
logging.getLogger("python_multipart").setLevel(logging.ERROR)

# There are eleven fields. The names in the head of a forged part can take 2 ms to be parsed.
_MAX_PARTS = 100


@dataclass(slots=True)
class Part:
    """Field of a form."""

    name: str
    has_filename: bool
    content_type: str
    """Content-Type of the part; empty if it has none."""
    content: bytes

    @property
    def text(self) -> str:
        """Content as text, in UTF-8 or else in Latin-1."""
        try:
            return self.content.decode()
        except UnicodeDecodeError:
            return self.content.decode("latin-1")


def parse_form(body: bytes, content_type: str) -> list[Part]:
    """Return the parts of a form in their order; a preamble and an epilogue are ignored.

    Raises:
        InvalidMultipart: the form is malformed or broken off, or has too many parts.
    """
    boundary = parse_options_header(content_type)[1].get(b"boundary")
    if not boundary:
        raise InvalidMultipart("the Content-Type has no boundary: send multipart/form-data with it")
    collector = _Collector()
    try:
        parser = MultipartParser(boundary, collector.callbacks())
        parser.write(_from_first_boundary(body, boundary))
        parser.finalize()
    except FormParserError as error:
        raise InvalidMultipart(
            f"the form is malformed ({error}): send multipart/form-data with a file 'image'"
        ) from error
    if not collector.ended:
        raise InvalidMultipart(
            "the form is broken off: its last boundary is missing: send the whole form"
        )
    return collector.parts


def _from_first_boundary(body: bytes, boundary: bytes) -> bytes:
    """Return the body without its preamble (RFC 2046, 5.1.1)."""
    delimiter = rb"--" + re.escape(boundary) + rb"(?=\r\n|--)"
    if re.match(delimiter, body):
        return body
    found = re.search(rb"\r\n" + delimiter, body)
    if found is None:
        raise InvalidMultipart(
            "the body does not contain the boundary of its Content-Type: send the whole form, with "
            "its own boundary"
        )
    return body[found.start() + 2 :]


class _Collector:
    """Receiver of the parser's events."""

    def __init__(self) -> None:
        self.parts: list[Part] = []
        self.ended = False
        self._headers: dict[bytes, bytes] = {}
        self._field = self._value = b""
        self._content: list[bytes] = []

    def callbacks(self) -> "MultipartCallbacks":
        """Return the methods by the parser's names of its events."""
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._header_field,
            "on_header_value": self._header_value,
            "on_header_end": self._header_end,
            "on_part_data": self._data,
            "on_part_end": self._end_part,
            "on_end": self._end,
        }

    def _begin(self) -> None:
        if len(self.parts) == _MAX_PARTS:
            raise InvalidMultipart(f"the form has more than {_MAX_PARTS} parts")
        self._headers, self._content = {}, []

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        self._headers[self._field.lower()] = self._value
        self._field = self._value = b""

    def _data(self, data: bytes, start: int, end: int) -> None:
        self._content.append(data[start:end])

    def _end_part(self) -> None:
        options = parse_options_header(self._headers.get(b"content-disposition"))[1]
        if b"name" not in options:
            raise InvalidMultipart("a part of the form has no name in its Content-Disposition")
        self.parts.append(
            Part(
                name=options[b"name"].decode("utf-8", "replace"),
                has_filename=b"filename" in options,
                content_type=self._headers.get(b"content-type", b"").decode("latin-1"),
                content=b"".join(self._content),
            )
        )

    def _end(self) -> None:
        self.ended = True
