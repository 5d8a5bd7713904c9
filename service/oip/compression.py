"""gzip and deflate, of which no more is unpacked than a request may have."""

import asyncio
import gzip
import zlib

from service.http.errors import UnsupportedEncoding
from service.inference.admission import Reservation
from service.oip.errors import InvalidInference

# zlib.decompressobj's own numbers: gzip's header or zlib's; and deflate without any.
_GZIP, _ZLIB, _BARE = 16 + zlib.MAX_WBITS, zlib.MAX_WBITS, -zlib.MAX_WBITS
_CHUNK_BYTES = 65_536
# Shorter ones take less time than a change of threads.
_QUICK_BYTES = 16_384
# An answer that is shorter than this fits into a packet anyway.
_WORTHWHILE_BYTES = 1024
# Floating-point numbers hardly get shorter at a higher one.
_LEVEL = 1


async def unpack(body: bytes, encoding: str, reservation: Reservation) -> bytes:
    """A request's body, whose Content-Encoding is `encoding`; '' and identity leave it alone.

    `hold` grows with what is unpacked, and bounds it.

    Raises:
        UnsupportedEncoding: it is another encoding.
        InvalidInference: the body is not of this encoding, or broken off.
        BodyTooLarge, Overloaded: see `Reservation.grow_to`.
    """
    match encoding.strip().lower():
        case "" | "identity":
            return body
        case "gzip" | "x-gzip":
            window = _GZIP
        case "deflate":  # zlib's by the standard, and bare by some clients
            window = _ZLIB if _is_zlib(body) else _BARE
        case other:
            raise UnsupportedEncoding(
                f"the Content-Encoding is {other[:100]!r}: send gzip, deflate or none"
            )
    chunks: list[bytes] = []
    unpacker, start, packed, size = zlib.decompressobj(window), 0, b"", reservation.size
    quick = len(body) <= _QUICK_BYTES
    while not unpacker.eof:
        if not packed:
            packed = body[start : start + _CHUNK_BYTES]
            start += len(packed)
        try:
            if quick:
                chunk = unpacker.decompress(packed, _CHUNK_BYTES)
            else:
                chunk = await asyncio.to_thread(unpacker.decompress, packed, _CHUNK_BYTES)
        except zlib.error as error:
            raise InvalidInference(f"the body is not {encoding}: {error}") from error
        if not packed and not chunk:
            raise InvalidInference(f"the body breaks off: it is not all of a {encoding} stream")
        size += len(chunk)
        reservation.grow_to(size)
        chunks.append(chunk)
        packed = unpacker.unconsumed_tail
    if unpacker.unused_data or start < len(body):
        raise InvalidInference(f"something is left behind the {encoding} stream")
    return b"".join(chunks)


async def pack(body: bytes, accepted: str) -> tuple[bytes, str | None]:
    """An answer as its client wants it, and its Content-Encoding."""
    encoding = _preferred(accepted)
    if encoding is None or len(body) < _WORTHWHILE_BYTES:
        return body, None
    compress = _gzip if encoding == "gzip" else _deflate
    if len(body) > _QUICK_BYTES:
        return await asyncio.to_thread(compress, body), encoding
    return compress(body), encoding


def _gzip(body: bytes) -> bytes:
    return gzip.compress(body, _LEVEL, mtime=0)


def _deflate(body: bytes) -> bytes:
    return zlib.compress(body, _LEVEL)


def _is_zlib(body: bytes) -> bool:
    """By its header (RFC 1950): method 8, and a checksum."""
    return len(body) > 1 and body[0] & 0x0F == 8 and int.from_bytes(body[:2]) % 31 == 0


def _preferred(accepted: str) -> str | None:
    """The first of the two that an Accept-Encoding names, and does not refuse."""
    for entry in accepted.lower().split(","):
        name, _, weight = entry.partition(";")
        refused = weight.replace(" ", "").removeprefix("q=").strip("0.") == ""
        if name.strip() in ("gzip", "deflate") and not (weight and refused):
            return name.strip()
    return None
