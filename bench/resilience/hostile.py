"""Hostile clients: slow, broken, greedy and gone."""

import asyncio
import io
import random
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache

from PIL import Image

from bench.common.client import HOST, Call, http_request
from bench.resilience.calls import DIGIT_PNG, PHOTO_JPEG
from service.oip.grpc.messages import SERVICE

_PATIENCE_S = 20.0  # longer than the service's limits of time for a head and a body
_SIDE = 5_000  # of the large images, in pixels; 25 million pixels are accepted
_LARGE: dict[str, dict[str, int]] = {
    "PNG": {"compress_level": 1},
    "WEBP": {"lossless": True, "method": 0, "quality": 0},
    "JPEG": {"progressive": True},
    "GIF": {},
}


def hostile_calls(rng: random.Random) -> Iterator[Call]:
    """Whole requests, broken or expensive: strays, false images, large images and bodies."""
    stray, flat = stray_calls(rng), large_images()
    large = ["/predict?model=cifar10", "/explain?model=cifar10", "/explain?format=png"]
    while True:
        part = bytearray(PHOTO_JPEG[: rng.randrange(1, len(PHOTO_JPEG))])
        part[rng.randrange(len(part))] ^= 1 << rng.randrange(8)
        yield Call("broken image", http_request("POST", "/predict", bytes(part)))
        yield next(stray)
        name = rng.choice(["model", "top_k", "target", "method", "zoom", "format", "x"])
        target = f"/explain?{name}={rng.getrandbits(256):x}"
        yield Call("stray parameter", http_request("POST", target, PHOTO_JPEG))
        # It hangs up when the request is sent, at once or in the queue.
        yield Call("leaves", http_request("POST", "/predict?model=cifar10", PHOTO_JPEG), 0.005)
        if rng.random() < 0.1:
            yield Call("large image", http_request("POST", rng.choice(large), rng.choice(flat)))
        if rng.random() < 0.05:
            yield Call("large body", http_request("POST", "/predict", bytes(11_000_000)))


def stray_calls(rng: random.Random) -> Iterator[Call]:
    """Paths, models, versions and methods that nobody has, for ever; no two alike."""
    while True:
        name = f"{rng.getrandbits(64):x}"
        kinds = [
            ("GET", f"/{name}", b""),
            ("POST", f"/predict/{name}", b"x"),
            ("GET", f"/models/{name}", b""),
            ("POST", f"/predict?model={name}", DIGIT_PNG),
            (name[:6].upper(), "/predict", b""),
        ]
        yield Call("stray", http_request(*rng.choice(kinds)))


@cache
def large_images() -> list[bytes]:
    """Small files of many pixels."""
    files = []
    for image_format, options in _LARGE.items():
        stream, mode = io.BytesIO(), "P" if image_format == "GIF" else "RGB"
        Image.new(mode, (_SIDE, _SIDE), 3).save(stream, image_format, **options)
        files.append(stream.getvalue())
    return files


Written = Callable[[random.Random], tuple[bytes, bytes]]
"""Bytes that a client writes at once, and those that it writes afterwards, one by one."""


def _unfinished_streams(rng: random.Random) -> tuple[bytes, bytes]:
    """Open gRPC streams, and send of each message only the beginning (HTTP/2 by hand)."""
    path = f"/{SERVICE}/{rng.choice(['ModelInfer', 'ModelStreamInfer'])}"
    fields = {":method": "POST", ":scheme": "http", ":path": path, ":authority": HOST}
    fields |= {"te": "trailers", "content-type": "application/grpc"}
    # HPACK: literal fields that nobody indexes.
    head = b"".join(
        b"\0" + b"".join(bytes([len(text)]) + text.encode() for text in pair)
        for pair in fields.items()
    )
    written = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _frame(4, 0, 0, b"")
    for stream in range(1, 20, 2):
        message = struct.pack(">BI", 0, 900_000) + bytes(rng.randrange(6_000))
        written += _frame(1, 4, stream, head) + _frame(0, 0, stream, message)
    return written, b""


_UPLOAD = http_request("POST", "/predict?model=cifar10", PHOTO_JPEG)
HTTP_CLIENTS: tuple[Written, ...] = (
    lambda rng: (b"", b""),
    lambda rng: (http_request("GET", "/livez"), b""),
    lambda rng: (b"GET /livez HTTP/1.1\r\nX: ", b"a" * 1_000),
    lambda rng: (_UPLOAD[:-1_000], _UPLOAD[-1_000:]),
    lambda rng: (_UPLOAD[: rng.randrange(1, len(_UPLOAD))], b""),
    lambda rng: (http_request("GET", "/openapi.json") * 1_000, b""),
)
"""Idle, idle after a request, slow with a head, with a body, cut off, deaf to many responses."""
GRPC_CLIENTS: tuple[Written, ...] = (_unfinished_streams,)


async def annoy(written: Written, port: int, rng: random.Random) -> None:
    """Connect, write, read nothing, stay for a while and reset the connection, for ever."""
    while True:
        # RuntimeError: that is how uvloop says that a connection is closed.
        with suppress(OSError, TimeoutError, RuntimeError), socket.socket() as link:
            link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            link.setblocking(False)
            loop = asyncio.get_running_loop()
            async with asyncio.timeout(rng.uniform(0.5, 1.5) * _PATIENCE_S):
                await loop.sock_connect(link, (HOST, port))
                at_once, slowly = written(rng)
                await loop.sock_sendall(link, at_once)
                for at in range(len(slowly)):
                    await loop.sock_sendall(link, slowly[at : at + 1])
                    await asyncio.sleep(0.2)
                await asyncio.sleep(_PATIENCE_S)
        await asyncio.sleep(rng.random())


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    head = len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big")
    return head + payload
