"""The image out of a request: its raw body, or the multipart field `image`."""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass

import orjson
from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from limelight.errors import ClientGone, MissingImage, UnsupportedMediaType
from limelight.imaging.formats import accepted, media_types
from service.http.errors import InvalidMultipart, RequestTimeout
from service.http.messages import Request
from service.inference.admission import Reservation

# What clients send that do not know, or do not say, what they send. The third is what
# `curl --data-binary` claims of everything.
_UNKNOWN_TYPES = frozenset({"", "application/octet-stream", "application/x-www-form-urlencoded"})
_ACCEPTED_TYPES = frozenset(media_types(registered=False)) | _UNKNOWN_TYPES
_MULTIPART = "multipart/form-data"
_FIELD = "image"


@dataclass(frozen=True, slots=True)
class Form:
    """An image, and the other fields that came with it."""

    image: bytes
    fields: dict[str, str]


def is_form(request: Request) -> bool:
    """Whether the body is multipart/form-data, whose fields say more than the query does."""
    return _media_type(request.header(b"content-type")) == _MULTIPART


async def read_image(request: Request, reservation: Reservation) -> bytes:
    """Read an encoded image that is the body.

    Raises:
        BodyTooLarge, Overloaded: see `Reservation.grow_to`; found as the body arrives.
        UnsupportedMediaType: the Content-Type is neither an image's nor multipart/form-data.
        MissingImage: the body is empty.
        RequestTimeout: the body does not arrive before the request's deadline.
        ClientGone: it never will.
    """
    _check_type(_media_type(request.header(b"content-type")))
    body = await read_body(request, reservation)
    if not body:
        raise MissingImage("the body is empty: send the image's bytes, or a field 'image'")
    return body


async def read_form(request: Request, reservation: Reservation) -> Form:
    """Read the fields of a multipart body, of which `image` is a file.

    Raises:
        InvalidMultipart: it cannot be parsed.
        MissingImage, UnsupportedMediaType: there is no image in it.
        BodyTooLarge, Overloaded, RequestTimeout, ClientGone: see `read_image`.
    """
    body = await read_body(request, reservation)

    async def stream() -> AsyncGenerator[bytes, None]:
        yield body

    try:
        headers = Headers(raw=request.scope["headers"])
        form = await MultiPartParser(headers, stream(), max_part_size=len(body) + 1).parse()
    # KeyError: the parser looks for a disposition or a boundary that isn't there.
    except (MultiPartException, KeyError, ValueError) as error:
        reason = getattr(error, "message", "a header is missing or malformed")
        raise InvalidMultipart(f"{reason} Send multipart/form-data with a file 'image'") from error
    try:
        image = form.get(_FIELD)
        if not isinstance(image, UploadFile):
            what = "is not a file" if image is not None else "is missing"
            raise MissingImage(f"the field {_FIELD!r} {what}: send a file under this name")
        _check_type(_media_type(image.content_type or ""))
        content = await image.read()
        texts = ((name, value) for name, value in form.items() if isinstance(value, str))
        fields = {name: _unquoted(text) for name, text in texts if text != "null"}
    finally:
        await form.close()
    if not content:
        raise MissingImage(f"the file in the field {_FIELD!r} is empty")
    return Form(content, fields)


async def read_body(request: Request, reservation: Reservation) -> bytes:
    """Read the whole body, whatever it is.

    Raises:
        BodyTooLarge, Overloaded, RequestTimeout, ClientGone: see `read_image`.
    """
    if request.arrived():
        return await _chunks(request, reservation)
    try:
        async with asyncio.timeout(max(request.remaining_s(), 0)):
            return await _chunks(request, reservation)
    except TimeoutError as error:
        raise RequestTimeout("the body did not arrive in time: send it faster") from error


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
        raise ClientGone("the client left while it sent its body")
    return message.get("body", b""), message.get("more_body", False)


def _unquoted(text: str) -> str:
    """BentoML's client writes every field as JSON: a string in quotes, None as null."""
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
