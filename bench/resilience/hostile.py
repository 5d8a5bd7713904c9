"""Hostile clients: slow, broken, greedy and gone, on connections of their own."""

import asyncio
import io
import random
import socket
import struct
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from functools import cache

from PIL import Image

from bench.common.client import HOST, Call, http_request
from bench.resilience.calls import PHOTO_JPEG
from bench.resilience.memory import stray_calls
from service.oip.grpc.messages import SERVICE

_PATIENCE_S = 20.0  # longer than the service's limits of time for a head and a body
_SIDE = 5_000  # of the large images, in pixels; 25 million pixels are accepted

Behaviour = Callable[[asyncio.StreamReader, asyncio.StreamWriter, random.Random], Awaitable[None]]


def hostile_calls(rng: random.Random) -> Iterator[Call]:
    """Whole requests, broken or expensive: strays, false images, large images and bodies."""
    stray = stray_calls(rng)
    flat = large_images()
    large = [f"/predict?model=cifar10&top_k={count}" for count in (1, 2)]
    large += ["/explain?model=cifar10", "/explain?model=cifar10&format=png"]
    while True:
        part = bytearray(PHOTO_JPEG[: rng.randrange(1, len(PHOTO_JPEG))])
        part[rng.randrange(len(part))] ^= 1 << rng.randrange(8)
        yield Call("broken image", http_request("POST", "/predict", bytes(part)))
        yield next(stray)
        yield Call("stray parameter", http_request("POST", _parameter(rng), PHOTO_JPEG))
        if rng.random() < 0.1:
            body = rng.choice(flat)
            yield Call("large image", http_request("POST", rng.choice(large), body))
        if rng.random() < 0.05:
            yield Call("large body", http_request("POST", "/predict", bytes(11_000_000)))


def _parameter(rng: random.Random) -> str:
    name = rng.choice(["model", "top_k", "target", "method", "zoom", "format", f"x{rng.random()}"])
    return f"/explain?{name}={rng.getrandbits(256):x}"


@cache
def large_images() -> list[bytes]:
    """Small files of many pixels, one of each accepted format."""
    files = []
    for image_format, options in _LARGE.items():
        stream = io.BytesIO()
        mode = "P" if image_format in ("GIF", "BMP") else "RGB"
        side = 3_000 if image_format == "BMP" else _SIDE  # which is not compressed
        Image.new(mode, (side, side), 3).save(stream, image_format, **options)
        files.append(stream.getvalue())
    return files


_LARGE: dict[str, dict[str, int]] = {
    "PNG": {"compress_level": 1},
    "WEBP": {"lossless": True, "method": 0, "quality": 0},
    "JPEG": {"progressive": True},
    "GIF": {},
    "BMP": {},
}


async def idle(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, rng: random.Random
) -> None:
    """Send nothing, or one request, and stay."""
    if rng.random() < 0.5:
        writer.write(http_request("GET", "/livez"))
    await reader.read()


async def slow_head(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, rng: random.Random
) -> None:
    """Send a head byte by byte, without an end."""
    await _trickle(writer, b"GET /livez HTTP/1.1\r\nX: " + bytes(1000).replace(b"\0", b"a"))


async def slow_body(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, rng: random.Random
) -> None:
    """Send a body byte by byte, without an end."""
    writer.write(http_request("POST", "/predict", PHOTO_JPEG)[: -len(PHOTO_JPEG)])
    await _trickle(writer, PHOTO_JPEG)


async def unread(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, rng: random.Random
) -> None:
    """Pipeline requests with large responses, and read none."""
    for _ in range(1000):
        writer.write(http_request("GET", "/openapi.json"))
        await writer.drain()
    await asyncio.sleep(_PATIENCE_S)


async def cut(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, rng: random.Random
) -> None:
    """Send part of an upload, and reset the connection."""
    request = http_request("POST", "/predict?model=cifar10", PHOTO_JPEG)
    writer.write(request[: rng.randrange(1, len(request))])
    await writer.drain()
    await asyncio.sleep(rng.random())


async def unfinished_stream(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, rng: random.Random
) -> None:
    """Open gRPC streams, and send of each message only the beginning (HTTP/2 by hand)."""
    path = f"/{SERVICE}/{rng.choice(['ModelInfer', 'ModelStreamInfer'])}"
    fields = {":method": "POST", ":scheme": "http", ":path": path, ":authority": HOST}
    fields |= {"te": "trailers", "content-type": "application/grpc"}
    # HPACK: literal fields that nobody indexes.
    head = b"".join(
        b"\0" + b"".join(bytes([len(text)]) + text.encode() for text in pair)
        for pair in fields.items()
    )
    writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _frame(4, 0, 0, b""))
    for stream in range(1, 20, 2):
        message = struct.pack(">BI", 0, 900_000) + bytes(rng.randrange(6_000))
        writer.write(_frame(1, 4, stream, head) + _frame(0, 0, stream, message))
    await reader.read(1 << 20)
    await asyncio.sleep(rng.random() * _PATIENCE_S)


HTTP_BEHAVIOURS: tuple[Behaviour, ...] = (idle, slow_head, slow_body, unread, cut)


async def behave(behaviour: Behaviour, port: int, rng: random.Random) -> None:
    """Connect, do that and reset the connection, again and again."""
    while True:
        # RuntimeError: that is how uvloop says that a connection is closed.
        with suppress(OSError, TimeoutError, RuntimeError):
            link = socket.socket()
            link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            link.setblocking(False)
            try:
                async with asyncio.timeout(_PATIENCE_S):
                    await asyncio.get_running_loop().sock_connect(link, (HOST, port))
                    reader, writer = await asyncio.open_connection(sock=link, limit=4096)
                    try:
                        await behaviour(reader, writer, rng)
                    finally:
                        writer.transport.abort()
            finally:
                link.close()
        await asyncio.sleep(rng.random())


async def _trickle(writer: asyncio.StreamWriter, content: bytes) -> None:
    for byte in content:
        writer.write(bytes([byte]))
        await writer.drain()
        await asyncio.sleep(0.2)


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    head = len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big")
    return head + payload
