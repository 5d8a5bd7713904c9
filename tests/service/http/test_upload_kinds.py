"""Uploads as clients really send them: media types, forms, Content-Encoding, odd image files."""

import gzip
import struct
import zlib
from collections.abc import Callable, Sequence

import httpx
import numpy as np
import pytest
from PIL import Image

from limelight.imaging.formats import FORMATS
from tests.limelight.imaging.test_decoding import assemble
from tests.own_images import HEIC_START, OWN, encoded
from tests.service.http.test_routes import PNG, expect_problem
from tests.service.oip.test_compression import deflate
from tests.serving_kit import colour_image, encode

LIMIT = 200_000  # LIMELIGHT_MAX_BYTES of the server
ROUTES = ("/predict", "/explain")
FORM = {"Content-Type": "multipart/form-data; boundary=x"}


def form(
    content: bytes = PNG,
    *,
    disposition: str = 'form-data; name="image"; filename="a.png"',
    content_type: str | None = None,
    before: bytes = b"",
    after: bytes = b"\r\n--x--\r\n",
) -> bytes:
    """Create a form with one part, between `before` and `after`."""
    lines = [f"Content-Disposition: {disposition}"]
    lines += [] if content_type is None else [f"Content-Type: {content_type}"]
    head = "".join(f"{line}\r\n" for line in lines)
    return before + b"--x\r\n" + head.encode() + b"\r\n" + content + after


def sends(client: httpx.Client, body: bytes, **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return client.post("/predict", content=body, headers=named)


@pytest.fixture(scope="module")
def expected(client: httpx.Client) -> object:
    return sends(client, PNG).json()


# Media types and forms


@pytest.mark.parametrize(
    "content_type",
    [
        "image/*",
        "*/*",
        "binary/octet-stream",
        "Binary/Octet-Stream; x=y",
        "application/octet-stream",
    ],
)
def test_type_without_a_format_is_sniffed_in_a_body_and_in_a_form(
    client: httpx.Client, expected: object, content_type: str
) -> None:
    assert sends(client, PNG, Content_Type=content_type).json() == expected
    body = form(content_type=content_type)
    assert client.post("/predict", content=body, headers=FORM).json() == expected
    tiff = encode(Image.new("L", (9, 9)), "TIFF")
    for answer in (
        sends(client, tiff, Content_Type=content_type),
        client.post("/predict", content=form(tiff, content_type=content_type), headers=FORM),
    ):
        expect_problem(answer, 415, "unsupported_media_type")


@pytest.mark.parametrize("name", OWN)
@pytest.mark.parametrize("path", ROUTES)
def test_formats_whose_decoding_is_not_bounded_are_rejected(
    client: httpx.Client, path: str, name: str
) -> None:
    body = HEIC_START if name == "HEIF" else encoded(Image.new("L", (9, 9)), name)
    answers = [
        client.post(path, content=body),
        client.post(path, content=form(body, content_type="image/*"), headers=FORM),
    ]
    for answer in answers:
        problem = expect_problem(answer, 415, "unsupported_media_type")
        assert problem["detail"].startswith(f"the body is a {FORMATS[name].title} image, which is")
    for media_type in FORMATS[name].media_types:
        answer = client.post(path, content=PNG, headers={"Content-Type": media_type})
        problem = expect_problem(answer, 415, "unsupported_media_type")
        assert "send a PNG, JPEG, WebP, BMP or GIF image" in problem["detail"]


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "WEBP", "BMP", "GIF"])
@pytest.mark.parametrize("content_type", [None, "image/*", "application/octet-stream"])
@pytest.mark.parametrize(
    "disposition", ['form-data; name="image"', "form-data; name=image; filename*=UTF-8''b%C3%A4r"]
)
def test_part_without_a_filename_is_sniffed(
    client: httpx.Client, image_format: str, content_type: str | None, disposition: str
) -> None:
    image = encode(colour_image(np.random.default_rng(0), 24), image_format)
    body = form(image, disposition=disposition, content_type=content_type)
    answer = client.post("/predict", content=body, headers=FORM)
    assert answer.json() == sends(client, image).json()
    assert answer.json()["model"] == "colours"


@pytest.mark.parametrize("text", [b"text", b"BMW", b"RIFF", b"7", b""])
def test_text_in_the_image_field_is_not_a_file(client: httpx.Client, text: bytes) -> None:
    body = form(text, disposition='form-data; name="image"')
    problem = expect_problem(
        client.post("/predict", content=body, headers=FORM), 400, "missing_image"
    )
    assert "is not a file" in problem["detail"]


@pytest.mark.parametrize(
    "preamble",
    [
        b"\r\n",
        b"This is a message in several parts.\r\n",
        b"--xy\r\nA: b\r\n\r\n",
        b"a\r\n--x c\r\n",
    ],
)
@pytest.mark.parametrize("epilogue", [b"", b"\r\n", b"\r\nThe end.\r\n--x\r\n"])
def test_preamble_and_epilogue_are_ignored(
    client: httpx.Client, expected: object, preamble: bytes, epilogue: bytes
) -> None:
    body = form(before=preamble, after=b"\r\n--x--" + epilogue)
    assert client.post("/predict", content=body, headers=FORM).json() == expected


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize(
    "body",
    [
        form(after=b""),
        form(after=b"\r\n--x"),
        form(after=b"\r\n--x\r\n"),
        form(after=b'\r\n--x\r\nContent-Disposition: form-data; name="top_k"\r\n\r\n1'),
        form()[:60],
    ],
)
def test_form_that_is_broken_off_says_so(client: httpx.Client, path: str, body: bytes) -> None:
    answer = client.post(path, content=body, headers=FORM)
    assert "broken off" in expect_problem(answer, 400, "invalid_multipart")["detail"]


@pytest.mark.parametrize(
    ("content_type", "body", "words"),
    [
        ("multipart/form-data", form(), "has no boundary"),
        ("multipart/form-data; boundary=", form(), "has no boundary"),
        ("multipart/form-data; boundary=other", form(), "does not contain the boundary"),
        (FORM["Content-Type"], form(disposition="form-data"), "no name"),
        (
            FORM["Content-Type"],
            b'--x\r\nContent-Disposition: a; name="b"\r\n\r\n\r\n' * 101,
            "100",
        ),
    ],
)
def test_malformed_form_is_named(
    client: httpx.Client, content_type: str, body: bytes, words: str
) -> None:
    answer = sends(client, body[:LIMIT], Content_Type=content_type)
    assert words in expect_problem(answer, 400, "invalid_multipart")["detail"]


# Content-Encoding


@pytest.mark.parametrize(
    ("encoding", "pack"),
    [
        ("gzip", gzip.compress),
        ("X-GZIP", gzip.compress),
        ("deflate", zlib.compress),
        ("deflate", deflate),
        ("identity", bytes),
    ],
)
def test_compressed_body_is_unpacked_raw_and_as_a_form(
    client: httpx.Client, expected: object, encoding: str, pack: Callable[[bytes], bytes]
) -> None:
    assert sends(client, pack(PNG), Content_Encoding=encoding).json() == expected
    answer = sends(client, pack(form()), Content_Encoding=encoding, **FORM)
    assert answer.json() == expected


def test_limit_of_a_body_counts_its_unpacked_bytes(client: httpx.Client, expected: object) -> None:
    fitting = gzip.compress(PNG + bytes(LIMIT - len(PNG)))
    assert sends(client, fitting, Content_Encoding="gzip").json() == expected
    for size in (LIMIT + 1, 50_000_000):
        large = gzip.compress(PNG + bytes(size - len(PNG)))
        assert len(large) < LIMIT
        answer = sends(client, large, Content_Encoding="gzip")
        expect_problem(answer, 413, "body_too_large")


@pytest.mark.parametrize("body", [PNG, b"", gzip.compress(PNG)[:-9], gzip.compress(PNG) + b"!"])
def test_body_that_is_not_gzip_is_rejected(client: httpx.Client, body: bytes) -> None:
    problem = expect_problem(sends(client, body, Content_Encoding="gzip"), 400, "invalid_encoding")
    assert "gzip" in problem["detail"]


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, gzip", "aws-chunked"])
@pytest.mark.parametrize("path", [*ROUTES, "/v2/models/colours/infer", "/v2/repository/index"])
def test_other_encodings_are_rejected_and_the_accepted_ones_named(
    client: httpx.Client, path: str, encoding: str
) -> None:
    answer = client.post(path, content=PNG, headers={"Content-Encoding": encoding})
    assert answer.status_code == 415
    assert f"the Content-Encoding is '{encoding}': send gzip, deflate or none" in answer.text
    assert answer.headers["accept-encoding"] == "gzip, deflate"


def test_every_route_with_a_body_unpacks_it(client: httpx.Client) -> None:
    packed = gzip.compress(b'{"ready": true}')
    headers = {"Content-Encoding": "gzip"}
    models = client.post("/v2/repository/index", content=packed, headers=headers).json()
    assert [model["name"] for model in models] == ["colours", "digits"]


# Files that begin like images, and images that are read wrongly


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize(
    "body",
    [
        *(b"BM", b"BMW", b"BMP files begin with BM.", b"BM" + b"a" * 70, b"BM,1,2\n" * 20),
        b"RIFF\x24\0\0\0WAVEfmt " + bytes(40),
        b"RIFF\x24\0\0\0AVI LIST" + bytes(40),
        *(b"RIFF", b"RIFF raff is what this text is about."),
    ],
)
def test_other_files_that_begin_like_images_are_not_accepted(
    client: httpx.Client, path: str, body: bytes
) -> None:
    expect_problem(client.post(path, content=body), 415, "unsupported_media_type")


@pytest.mark.parametrize("image_format", ["WEBP", "BMP"])
@pytest.mark.parametrize("length", [12, 20, 40, -1])
def test_truncated_files_of_these_formats_stay_undecodable(
    client: httpx.Client, image_format: str, length: int
) -> None:
    body = encode(colour_image(np.random.default_rng(0), 40), image_format)
    expect_problem(sends(client, body[:length]), 422, "undecodable_image")


def bmp(pixels_hwc: np.ndarray) -> bytes:
    """Create a BMP with four channels, whose header says where the alpha channel is."""
    height, width, _ = pixels_hwc.shape
    content = pixels_hwc[::-1, :, [2, 1, 0, 3]].tobytes()
    masks = struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    header = struct.pack("<IiiHHIIiiII", 108, width, height, 1, 32, 3, len(content), 0, 0, 0, 0)
    header += masks + b"BGRs" + bytes(48)
    start = 14 + len(header)
    return struct.pack("<2sIII", b"BM", start + len(content), 0, start) + header + content


def test_bmp_whose_alpha_is_all_zero_is_opaque(client: httpx.Client) -> None:
    rgb = np.random.default_rng(4).integers(0, 256, (8, 8, 3), np.uint8)
    rgba = np.dstack([rgb, np.zeros((8, 8), np.uint8)])
    opaque = sends(client, encode(Image.fromarray(rgb))).json()
    assert sends(client, bmp(rgba)).json() == opaque
    rgba[:4, :, 3] = 255  # used: the rest is transparent
    assert sends(client, bmp(rgba)).json() == sends(client, encode(Image.fromarray(rgba))).json()
    assert sends(client, bmp(rgba)).json() != opaque


def png_of_samples(
    samples: np.ndarray, depth: int, transparent: Sequence[int], *, interlaced: bool = False
) -> bytes:
    """Create an 8 x 8 PNG, grey or RGB, from samples (8, 8, C) and a transparent colour."""
    passes = [(0, 0, 1, 1)]
    if interlaced:
        passes = [
            *((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4)),
            *((0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)),
        ]
    content = b""
    for x, y, step_x, step_y in passes:
        for row in samples[y::step_y, x::step_x]:
            bits = "".join(f"{sample:0{depth}b}" for sample in row.ravel())
            bits += "0" * (-len(bits) % 8)
            content += b"\0" + int(bits, 2).to_bytes(len(bits) // 8, "big")
    colour = 2 if samples.shape[2] == 3 else 0
    header = struct.pack(">IIBBBBB", 8, 8, depth, colour, 0, 0, interlaced)
    trns = struct.pack(f">{len(transparent)}H", *transparent)
    parts = [(b"IHDR", header), (b"tRNS", trns), (b"IDAT", zlib.compress(content)), (b"IEND", b"")]
    return assemble(parts)


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize(("depth", "channels"), [(16, 3), (16, 1), (8, 3), (8, 1), (4, 1), (2, 1)])
def test_transparent_colour_of_a_png_is_compared_in_full_depth(
    client: httpx.Client, depth: int, channels: int, interlaced: bool
) -> None:
    rng = np.random.default_rng(8)
    samples = rng.integers(0, 2**depth, (8, 8, channels))
    colour = np.full(channels, 2**depth // 3)
    samples[4:, 2:5] = colour
    samples[6, 6] = colour ^ 1  # nearly the colour: of 16 bits, only the low byte differs
    body = png_of_samples(samples, depth, colour.tolist(), interlaced=interlaced)

    levels = samples >> 8 if depth == 16 else samples * 255 // (2**depth - 1)
    if (depth, channels) == (16, 1):
        levels = (samples + 128) // 257
    alpha = np.where((samples == colour).all(2, keepdims=True), 0, 255)
    assert 12 <= (alpha == 0).sum() < 40
    rgba = np.concatenate([np.broadcast_to(levels, (8, 8, 3)), alpha], 2).astype(np.uint8)
    same = encode(Image.fromarray(rgba))
    assert sends(client, body).json() == sends(client, same).json()
    # The network of `colours` sees no difference between greys, so the drawn upload is compared.
    drawn = [
        client.post("/explain?format=png&opacity=0", content=content).content
        for content in (body, same)
    ]
    assert drawn[0] == drawn[1]
