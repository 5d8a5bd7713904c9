"""Compression of requests and answers with gzip and deflate."""

import gzip
import zlib
from typing import Any

import httpx
import numpy as np
import pytest

from tests.service.oip.kit import (
    INFER,
    binary,
    expect_error,
    images_input,
    matches,
    outputs,
    pixels,
    request,
)
from tests.service.test_app import Served


def deflate(body: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(body) + packer.flush()


@pytest.mark.parametrize(
    ("encoding", "pack"),
    [("gzip", gzip.compress), ("deflate", zlib.compress), ("deflate", deflate)],
)
@pytest.mark.parametrize("batch", [1, 8])
async def test_compressed_body_is_decompressed_and_its_header_counts_decompressed_bytes(
    http: httpx.AsyncClient, rng: np.random.Generator, encoding: str, pack: Any, batch: int
) -> None:
    images_nhwc = pixels(rng, batch)
    tensor = images_input(images_nhwc)
    del tensor["data"]
    tensor["parameters"] = {"binary_data_size": images_nhwc.size}
    header = request(tensor, id="x" * 70_000, parameters={"binary_data_output": True})
    body, headers = binary(header, images_nhwc.tobytes())
    headers |= {"Content-Encoding": encoding, "Accept-Encoding": encoding}
    response = await http.post(INFER, content=pack(body), headers=headers)
    assert response.headers["content-encoding"] == encoding
    assert int(response.headers["content-length"]) < 70_000
    matches(outputs(response), images_nhwc)


@pytest.mark.parametrize("accepted", ["", "identity", "br", "gzip;q=0, deflate;q=0.0"])
async def test_answer_is_not_compressed_unless_accepted(
    http: httpx.AsyncClient, rng: np.random.Generator, accepted: str
) -> None:
    body = request(images_input(pixels(rng, 8)))
    response = await http.post(INFER, json=body, headers={"Accept-Encoding": accepted})
    assert "content-encoding" not in response.headers
    assert response.headers["vary"] == "Accept-Encoding"


@pytest.mark.parametrize("pack", [gzip.compress, zlib.compress])
async def test_decompression_bomb_is_rejected_during_decompression(
    http: httpx.AsyncClient, served: Served, pack: Any
) -> None:
    encoding = "gzip" if pack is gzip.compress else "deflate"
    bomb = pack(bytes(30_000_000))
    assert len(bomb) < 100_000
    response = await http.post(INFER, content=bomb, headers={"Content-Encoding": encoding})
    expect_error(response, 413)
    assert served.application._upload_budget.reserved_bytes == 0


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("gzip", b"nonsense"),
        ("deflate", b"nonsense"),
        ("gzip", b""),
        ("gzip", gzip.compress(b"{}" * 99, mtime=0)[:-9]),
        ("deflate", zlib.compress(b"{}" * 99)[:-5]),
        ("gzip", gzip.compress(b"{}", mtime=0) + b"!"),
        ("deflate", zlib.compress(b"{}") + b"!"),
        ("gzip", gzip.compress(b"{}", mtime=0) + bytes(100_000)),
    ],
)
async def test_body_that_does_not_match_its_encoding_is_rejected(
    http: httpx.AsyncClient, encoding: str, body: bytes
) -> None:
    headers = {"Content-Encoding": encoding}
    why = expect_error(await http.post(INFER, content=body, headers=headers), 400)
    assert encoding in why
