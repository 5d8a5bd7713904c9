"""Parser of requests, with limits that apply while the bytes arrive.

httptools keeps whatever a client sends until a head is complete, and parses all requests in the
bytes at once. So it gets the bytes in pieces here, and no piece has more than one head.
"""

import logging
from enum import Enum, auto
from typing import Any

from httptools import HttpParserError, HttpParserUpgrade
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from limelight.errors import LimelightError
from service.errors import HeadTooLarge, MalformedRequest
from service.settings import Settings

logger = logging.getLogger("limelight.http")

_END_OF_HEAD = b"\r\n\r\n"
# A chunked body can end anywhere in a piece, so that more requests may follow within the piece.
_CHUNKED_PIECE = 4096
_LENGTH_DIGITS = 20
_FRAMING = (b"content-length", b"transfer-encoding")


class Phase(Enum):
    """Part of a request that arrives next."""

    BETWEEN = auto()
    HEAD = auto()
    BODY = auto()


BETWEEN, HEAD, BODY = Phase


class BoundedParser(HttpToolsProtocol):
    """Uvicorn's protocol, with limits on heads, trailers and pipelined requests.

    Trailers are ignored, and so is an offer to upgrade to another protocol (RFC 9110, 7.8).

    Attributes:
        phase: part of a request that arrives next.
        input_closed: True if no more bytes are parsed.
        since: time of the event loop at which the connection became idle, or began a head.
    """

    def __init__(self, *arguments: Any, settings: Settings, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._max_head_bytes = settings.max_head_bytes
        self._max_head_fields = settings.max_head_fields
        self._max_pipelined = settings.max_pipelined
        self.phase = BETWEEN
        self.input_closed = False
        self.since = self.loop.time()
        self._head_bytes = 0
        self._declared = b""
        self._missing_bytes = 0
        self._body_bytes = 0
        # True if uvicorn has accepted a request, and then failed: nothing will answer it.
        self._unanswered = False
        # Bytes of a chunked body around its content: in total, and since the last content.
        self._framing_bytes = self._dry_bytes = 0
        self._held = b""
        self._piece = b""

    def refuse(self, error: LimelightError) -> None:
        """Close the input, and answer with an error after the responses in progress."""
        raise NotImplementedError

    def abort(self) -> None:
        """Close the connection at once, and free its memory."""
        raise NotImplementedError

    def data_received(self, data: bytes) -> None:
        """Parse the bytes; keep those that the limit on pipelined requests excludes for now."""
        if not self._held:
            self._parse(data)
        elif not self.input_closed:
            self._held += data
            self.flow.pause_reading()

    def continue_parsing(self) -> None:
        """Parse the bytes that were kept."""
        if self.input_closed:
            return
        data, self._held = self._held, b""
        self._parse(data)
        if not self._held:
            self.flow.resume_reading()

    @property
    def body_arrived(self) -> bool:
        """True if the bytes of the head that was just parsed are followed by the whole body."""
        end = self._piece.find(_END_OF_HEAD) + len(_END_OF_HEAD)
        return 0 <= self._missing_bytes <= len(self._piece) - end

    @property
    def unread(self) -> bool:
        """True if the client has certainly sent, or will send, bytes that are not parsed yet."""
        return bool(self._held) or self.phase is HEAD or self._body_is_missing()

    def _body_is_missing(self) -> bool:
        return self.phase is BODY and self._missing_bytes != 0

    def _parse(self, data: bytes) -> None:
        at, end = 0, len(data)
        while at < end and not self.input_closed:
            in_body, measured = self.phase is BODY, True
            if in_body:
                missing = self._missing_bytes
                upto = min(end, at + (_CHUNKED_PIECE if missing < 0 else missing))
            elif len(self.pipeline) >= self._max_pipelined:
                self._held = data[at:]
                self.flow.pause_reading()
                return
            elif at == 0 and self._is_one_request(data):
                upto, measured = end, False
            else:
                limit = at + self._max_head_bytes - self._head_bytes
                found = data.find(_END_OF_HEAD, at, limit)
                upto = min(end, limit) if found < 0 else found + len(_END_OF_HEAD)
            self._piece = piece = data if upto - at == end else data[at:upto]
            at, before = upto, self._body_bytes
            try:
                self.parser.feed_data(piece)
            except HttpParserUpgrade as upgrade:
                at -= len(piece) - int(upgrade.args[0])
                self._ignore_upgrade()
            except HttpParserError as error:
                self._end(error)
                return
            finally:
                self._piece = b""
            if in_body:
                if self._missing_bytes < 0:
                    self._check_framing(len(piece), self._body_bytes - before)
            elif self.phase is HEAD and measured:
                self._head_bytes += len(piece)
                if self._head_bytes >= self._max_head_bytes:
                    self.refuse(self._too_large())

    def _end(self, error: HttpParserError) -> None:
        """Refuse what is not valid; close the connection after a fault of our own."""
        if self._unanswered:
            logger.error(
                "the connection of a request that cannot be answered is closed",
                exc_info=error.__context__,
            )
            self.input_closed = True
            self.abort()
        else:
            self.refuse(_cause(error))

    def _is_one_request(self, data: bytes) -> bool:
        """Return True if the bytes begin with a request, and end before the end of another head."""
        return (
            self.phase is BETWEEN
            and len(data) < self._max_head_bytes
            and data.count(_END_OF_HEAD) == 1
        )

    def _check_framing(self, size: int, content: int) -> None:
        """Limit chunk extensions, trailers, and the overhead of tiny chunks."""
        self._framing_bytes += size - content
        self._dry_bytes = 0 if content else self._dry_bytes + size
        limit = self._max_head_bytes
        if self._dry_bytes > limit or self._framing_bytes > limit + self._body_bytes:
            self.refuse(
                HeadTooLarge(
                    "the trailers, or the sizes of the chunks, have more bytes than are accepted: "
                    "send larger chunks, and no trailers"
                )
            )

    def _ignore_upgrade(self) -> None:
        """Continue with the body of a request that offered an upgrade.

        The parser expects the next request then. It gets the framing of this body once more.
        """
        framing = [b"%s: %s\r\n" % field for field in self.headers if field[0] in _FRAMING]
        if self._missing_bytes == 0 or not framing:
            self._end_message()
        else:
            self.parser.feed_data(b"POST / HTTP/1.1\r\n%b\r\n" % b"".join(framing))

    # Callbacks of the parser. In the phase BODY, there is no other head than the one above.

    def on_message_begin(self) -> None:
        if self.phase is not BODY:
            self.phase, self.since, self._head_bytes = HEAD, self.loop.time(), 0
            self._declared = b"0"
            super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        if self.phase is HEAD:
            self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.phase is not HEAD:
            return  # a trailer
        if len(self.headers) >= self._max_head_fields:
            raise self._too_large()
        name = name.lower()
        if name == b"content-length":
            if len(value) > _LENGTH_DIGITS:
                raise MalformedRequest("the Content-Length has too many digits: send a smaller one")
            self._declared = value
        elif name == b"transfer-encoding":
            self._declared = b"-1"  # chunked: the parser rejects everything else
        elif name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        if self.phase is HEAD:
            self.phase, self._head_bytes = BODY, 0
            self._missing_bytes = int(self._declared)
            self._body_bytes = self._framing_bytes = self._dry_bytes = 0
            before = self.cycle
            try:
                super().on_headers_complete()
            except BaseException:
                self.phase = HEAD
                self._unanswered = self.cycle is not before
                raise

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        if self._missing_bytes > 0:
            self._missing_bytes -= len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        if not self.parser.should_upgrade():
            self._end_message()

    def _end_message(self) -> None:
        self.phase = BETWEEN
        if self.cycle.response_complete:
            self.since = self.loop.time()
        super().on_message_complete()

    def _should_upgrade(self) -> bool:
        return False

    def _too_large(self) -> HeadTooLarge:
        return HeadTooLarge(
            f"the head of a request may have {self._max_head_bytes} bytes and "
            f"{self._max_head_fields} header fields: send fewer"
        )


def _cause(error: HttpParserError) -> LimelightError:
    """Return the error for the client: the one that a callback raised, or a syntax error."""
    if isinstance(error.__context__, LimelightError):
        return error.__context__
    return MalformedRequest(f"the request is not valid HTTP/1.1: {str(error)[:100]}")
