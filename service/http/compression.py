"""Compression with gzip and deflate. Decompression stops at the size limit of a request."""

import asyncio
import gzip
import zlib

from service.errors import InvalidEncoding, UnsupportedEncoding
from service.inference.admission import Reservation

# Window sizes of zlib.decompressobj: gzip header, zlib header, and raw deflate without a header.
_GZIP, _ZLIB, _RAW = 16 + zlib.MAX_WBITS, zlib.MAX_WBITS, -zlib.MAX_WBITS
_CHUNK_BYTES = 65_536
# Shorter bodies take less time than the switch to another thread.
_QUICK_BYTES = 16_384
# A shorter response fits into one packet without compression.
_MIN_BYTES = 1024
# Higher levels hardly compress floating-point numbers further.
_LEVEL = 1


async def decompress(body: bytes, encoding: str, reservation: Reservation) -> bytes:
    """Decompress the body of a request with the Content-Encoding `encoding`, if there is one.

    `reservation` grows with the decompressed size, and limits it while it is decompressed.

    Raises:
        UnsupportedEncoding: the encoding is not supported.
        InvalidEncoding: the body does not have this encoding, or is truncated.
        BodyTooLarge, Overloaded: see `Reservation.grow_to`.
    """
    match encoding.strip().lower():
        case "" | "identity":
            return body
        case "gzip" | "x-gzip":
            window = _GZIP
        case "deflate":  # with a zlib header by the standard; some clients send raw deflate
            window = _ZLIB if _is_zlib(body) else _RAW
        case other:
            raise UnsupportedEncoding(
                f"the Content-Encoding is {other[:100]!r}: send gzip, deflate or none"
            )
    chunks: list[bytes] = []
    decompressor, start, packed, size = zlib.decompressobj(window), 0, b"", 0
    quick = len(body) <= _QUICK_BYTES
    while not decompressor.eof:
        if not packed:
            packed = body[start : start + _CHUNK_BYTES]
            start += len(packed)
        try:
            if quick:
                chunk = decompressor.decompress(packed, _CHUNK_BYTES)
            else:
                chunk = await asyncio.to_thread(decompressor.decompress, packed, _CHUNK_BYTES)
        except zlib.error as error:
            raise InvalidEncoding(f"the body is not {encoding}: {error}") from error
        if not packed and not chunk:
            raise InvalidEncoding(f"the body is truncated: the {encoding} stream is incomplete")
        size += len(chunk)
        reservation.grow_to(size, beside=len(body))
        chunks.append(chunk)
        packed = decompressor.unconsumed_tail
    if decompressor.unused_data or start < len(body):
        raise InvalidEncoding(f"there are extra bytes after the {encoding} stream")
    return b"".join(chunks)


async def compress(body: bytes, accepted: str) -> tuple[bytes, str | None]:
    """Compress a response as its client accepts it; return it with its Content-Encoding."""
    encoding = _preferred(accepted)
    if encoding is None or len(body) < _MIN_BYTES:
        return body, None
    compress_body = _gzip if encoding == "gzip" else _deflate
    if len(body) > _QUICK_BYTES:
        return await asyncio.to_thread(compress_body, body), encoding
    return compress_body(body), encoding


def _gzip(body: bytes) -> bytes:
    return gzip.compress(body, _LEVEL, mtime=0)


def _deflate(body: bytes) -> bytes:
    return zlib.compress(body, _LEVEL)


def _is_zlib(body: bytes) -> bool:
    """Return True for a zlib header (RFC 1950): method 8, and a valid checksum."""
    return len(body) > 1 and body[0] & 0x0F == 8 and int.from_bytes(body[:2]) % 31 == 0


def _preferred(accepted: str) -> str | None:
    """Return the first of gzip and deflate in Accept-Encoding whose weight is not zero."""
    for entry in accepted.lower().split(","):
        name, _, weight = entry.partition(";")
        excluded = weight.replace(" ", "").removeprefix("q=").strip("0.") == ""
        if name.strip() in ("gzip", "deflate") and not (weight and excluded):
            return name.strip()
    return None
