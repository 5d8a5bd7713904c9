"""Requests to load the service with, made from the repository's own example pictures."""

import io
from functools import cache

from PIL import Image

from bench.common import ROOT
from bench.common.client import HOST, Call


@cache
def cifar_png() -> bytes:
    """A photograph of 32x32 pixels."""
    return _encode("cat.png", (32, 32), "RGB", "PNG")


@cache
def digit_png() -> bytes:
    """A digit of 28x28 pixels."""
    return _encode("seven.png", (28, 28), "L", "PNG")


@cache
def photo_jpeg() -> bytes:
    """A photograph of 512x512 pixels."""
    return _encode("cat.png", (512, 512), "RGB", "JPEG")


def http_request(
    method: str, target: str, body: bytes = b"", headers: dict[str, str] | None = None
) -> bytes:
    """One HTTP/1.1 request, as it is written."""
    fields = {"Host": HOST, "Content-Length": str(len(body)), **(headers or {})}
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"{method} {target} HTTP/1.1\r\n{head}\r\n".encode() + body


def cifar_call(route: str = "/predict", *, timeout_ms: int | None = None) -> Call:
    """A small photograph for the model `cifar10`, counted under its route."""
    headers = {} if timeout_ms is None else {"X-Timeout-Ms": str(timeout_ms)}
    return Call(route, http_request("POST", f"{route}?model=cifar10", cifar_png(), headers))


def _encode(name: str, size: tuple[int, int], mode: str, image_format: str) -> bytes:
    stream = io.BytesIO()
    with Image.open(ROOT / "examples" / name) as image:
        image.convert(mode).resize(size).save(stream, image_format)
    return stream.getvalue()
