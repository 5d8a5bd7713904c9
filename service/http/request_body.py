"""Readers of a request's body, and of its image: the whole body, or the multipart field `image`."""

import asyncio
from dataclasses import dataclass

import orjson

from limelight.errors import ClientGone, MissingImage, UnsupportedMediaType
from limelight.imaging.formats import accepted, has_signature, media_types
from service.errors import RequestTimeout
from service.http.compression import decompress
from service.http.messages import Request
from service.http.multipart import Part, parse_form
from service.inference.admission import Reservation

# Content types that do not name a format: the bytes decide. `curl --data-binary` always sends
# application/x-www-form-urlencoded, and object stores default to binary/octet-stream.
_UNKNOWN_TYPES = frozenset(
    {
        "",
        "*/*",
        "image/*",
        "application/octet-stream",
        "binary/octet-stream",
        "application/x-www-form-urlencoded",
    }
)
_ACCEPTED_TYPES = frozenset(media_types(registered=False)) | _UNKNOWN_TYPES
_MULTIPART = "multipart/form-data"
_FIELD = "image"


@dataclass(frozen=True, slots=True)
class Form:
    """Image and other fields of a multipart form."""

    image: bytes
    fields: dict[str, str]


def is_form(request: Request) -> bool:
    """Return True if the body is multipart/form-data, whose fields can hold parameters."""
    return _media_type(request.header(b"content-type")) == _MULTIPART


async def read_image(request: Request, reservation: Reservation) -> bytes:
    """Read a body that is an encoded image.

    Raises:
        UnsupportedMediaType: the Content-Type is not that of a supported image.
        MissingImage: the body is empty.
        BodyTooLarge, Overloaded, RequestTimeout, ClientGone, ...: see `read_body`.
    """
    _check_type(_media_type(request.header(b"content-type")))
    body = await read_body(request, reservation)
    if not body:
        raise MissingImage("the body is empty: send the image's bytes, or a field 'image'")
    return body


async def read_form(request: Request, reservation: Reservation) -> Form:
    """Read a multipart form, whose field `image` is a file.

    Raises:
        InvalidMultipart: the form cannot be parsed.
        MissingImage, UnsupportedMediaType: the form has no supported image.
        BodyTooLarge, Overloaded, RequestTimeout, ClientGone, ...: see `read_body`.
    """
    body = await read_body(request, reservation)
    parts = {part.name: part for part in parse_form(body, request.header(b"content-type"))}
    image = parts.pop(_FIELD, None)
    if image is None or not _is_file(image):
        problem = "is not a file" if image is not None else "is missing"
        raise MissingImage(f"the field {_FIELD!r} {problem}: send a file under this name")
    _check_type(_media_type(image.content_type))
    if not image.content:
        raise MissingImage(f"the file in the field {_FIELD!r} is empty")
    texts = {name: part.text for name, part in parts.items() if not part.has_filename}
    fields = {name: _unquoted(text) for name, text in texts.items() if text != "null"}
    return Form(image.content, fields)


async def read_body(request: Request, reservation: Reservation) -> bytes:
    """Read the whole body, of any type, and undo its Content-Encoding.

    Raises:
        BodyTooLarge, Overloaded: see `Reservation.grow_to`; checked while the body arrives.
        RequestTimeout: the body does not arrive before the request's deadline.
        ClientGone: the client disconnected before the end of the body.
        UnsupportedEncoding, InvalidEncoding: see `decompress`.
    """
    if request.arrived():
        body = await _chunks(request, reservation)
    else:
        try:
            async with asyncio.timeout(max(request.remaining_s(), 0)):
                body = await _chunks(request, reservation)
        except TimeoutError as error:
            raise RequestTimeout("the body did not arrive in time: send it faster") from error
    encoding = request.header(b"content-encoding")
    return await decompress(body, encoding, reservation) if encoding else body


async def _chunks(request: Request, reservation: Reservation) -> bytes:
    body, more = await _chunk(request)
    reservation.grow_to(len(body))
    if not more:
        return body
    chunks, size = [body], len(body)
    while more:
        body, more = await _chunk(request)
        size += len(body)
        reservation.grow_to(size)
        chunks.append(body)
    return b"".join(chunks)


async def _chunk(request: Request) -> tuple[bytes, bool]:
    message = await request.receive()
    if message["type"] != "http.request":
        raise ClientGone("the client disconnected while it sent its body")
    return message.get("body", b""), message.get("more_body", False)


def _is_file(part: Part) -> bool:
    """Return True unless the part is text: a file name is optional (RFC 7578, 4.2)."""
    return part.has_filename or bool(part.content_type) or has_signature(part.content)


def _unquoted(text: str) -> str:
    """Remove the quotes of a JSON string: BentoML's client writes fields as JSON, None as null."""
    if text.startswith('"') and text.endswith('"'):
        try:
            return str(orjson.loads(text))
        except orjson.JSONDecodeError:
            return text
    return text


def _check_type(media_type: str) -> None:
    if media_type not in _ACCEPTED_TYPES:
        raise UnsupportedMediaType(
            f"the Content-Type is {media_type[:100]!r}: send a {accepted()} image, "
            "or multipart/form-data with a file 'image'"
        )


def _media_type(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()
