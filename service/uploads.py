"""The image out of a request: its raw body, or the multipart field `image`."""

from collections.abc import AsyncGenerator

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from service.errors import BodyTooLarge, InvalidMultipart, MissingImage, UnsupportedMediaType
from service.images import ACCEPTED

IMAGE_TYPES = frozenset({"image/png", "image/jpeg", "image/webp", "image/bmp", "image/gif"})
# What clients send that do not know, or do not say, what they send. The third is what
# `curl --data-binary` claims of everything.
_UNKNOWN_TYPES = frozenset({"", "application/octet-stream", "application/x-www-form-urlencoded"})
_ALIASES = frozenset({"image/jpg", "image/pjpeg", "image/x-ms-bmp", "image/x-png"})
_ACCEPTED_TYPES = IMAGE_TYPES | _UNKNOWN_TYPES | _ALIASES
_FIELD = "image"


async def read_image(request: Request, *, max_bytes: int) -> bytes:
    """Read the encoded image, and never more than `max_bytes` of the body.

    Raises:
        BodyTooLarge: the body is longer, by its Content-Length or as it arrives.
        UnsupportedMediaType: the Content-Type is neither an image's nor multipart/form-data.
        InvalidMultipart: the multipart body cannot be parsed.
        MissingImage: there is no image in it.
    """
    media_type = _media_type(request.headers.get("content-type", ""))
    if media_type != "multipart/form-data":
        _check_type(media_type)
        body = await _read(request, max_bytes)
        if not body:
            raise MissingImage("the body is empty: send the image's bytes, or a field 'image'")
        return body
    return await _field(request, await _read(request, max_bytes))


async def _read(request: Request, max_bytes: int) -> bytes:
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > max_bytes:
        raise _too_large(max_bytes)
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > max_bytes:
            raise _too_large(max_bytes)
        chunks.append(chunk)
    return b"".join(chunks)


async def _field(request: Request, body: bytes) -> bytes:
    async def stream() -> AsyncGenerator[bytes, None]:
        yield body

    try:
        parser = MultiPartParser(request.headers, stream(), max_part_size=len(body) + 1)
        form = await parser.parse()
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
    finally:
        await form.close()
    if not content:
        raise MissingImage(f"the file in the field {_FIELD!r} is empty")
    return content


def _check_type(media_type: str) -> None:
    if media_type not in _ACCEPTED_TYPES:
        raise UnsupportedMediaType(
            f"the Content-Type is {media_type[:100]!r}: send a {ACCEPTED} image, "
            "or multipart/form-data with a file 'image'"
        )


def _media_type(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()


def _too_large(max_bytes: int) -> BodyTooLarge:
    return BodyTooLarge(f"the body has more than {max_bytes} bytes: send a smaller image")
