"""Image files that are small to send and expensive to decode, and damaged ones."""

import io
import random
import struct
import zlib
from collections.abc import Callable, Iterator
from functools import partial

from PIL import Image

from tests.long.hostile.image_files import (
    SIDE,
    SIGNATURE,
    bmp,
    chunk,
    exif_circle,
    exif_segment,
    gif,
    jpeg_with,
    many_scans,
    patched_frame,
    photo,
    png,
    segment,
    webp,
    zeros,
)
from tests.long.hostile.inputs import HTTP_OK, REJECTED, HttpInput, upload

_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF")


def images() -> Iterator[HttpInput]:
    """Yield all inputs of this module."""
    yield from _huge()
    yield from _crowded()
    yield from _damaged()
    yield from _mislabelled()


def _huge() -> Iterator[HttpInput]:
    kinds = {"grey 1": (1, 0), "grey 16": (16, 0), "RGB": (8, 2), "RGB 16": (16, 2)}
    kinds |= {"palette": (8, 3), "palette 1": (1, 3), "grey alpha 16": (16, 4)}
    kinds |= {"RGBA": (8, 6), "RGBA 16": (16, 6)}
    for name, (depth, colour) in kinds.items():
        yield upload("huge PNG", name, partial(png, SIDE, depth, colour))
        if depth >= 8:
            make = partial(png, SIDE, depth, colour, interlace=1)
            yield upload("huge PNG", f"{name}, interlaced", make)
    for side in (8_000, 100_000, 2**31 - 1):
        make = partial(_claims, side)
        yield upload("huge PNG", f"claims {side}", make, REJECTED)
    for target in ("/explain", "/explain?format=png", "/explain?method=layercam&zoom=true"):
        for name, make in (
            ("PNG", partial(png, SIDE, 8, 6)),
            ("WebP", partial(webp, SIDE, SIDE, alpha=True)),
        ):
            yield upload("huge overlay", f"{name} {target}", make, target=target)
    for alpha in (False, True):
        yield upload("huge WebP", f"flat, alpha {alpha}", partial(webp, 2441, 16383, alpha=alpha))
        make = partial(webp, 16384, 16384, alpha=alpha)
        yield upload("huge WebP", f"largest, alpha {alpha}", make, REJECTED)
    make = partial(
        photo,
        "WEBP",
        64,
        save_all=True,
        append_images=[Image.new("RGB", (64, 64), at) for at in range(300)],
    )
    yield upload("huge WebP", "300 frames", make)
    for frames in (1, 20_000, 500_000):
        yield upload("huge GIF", f"{frames} frames", partial(gif, SIDE, frames))
    yield upload("huge GIF", "claims 65535", partial(gif, 65_535, 1), REJECTED)
    for name, width, height, data in (
        ("empty", SIDE, SIDE, b"\0\1"),
        ("deltas", SIDE, SIDE, b"\0\2\xff\xff" * 50_000 + b"\0\1"),
        ("runs", SIDE, SIDE, b"\xff\7" * 200_000 + b"\0\1"),
        ("ends of lines", SIDE, SIDE, b"\0\0" * 4_000_000),
        ("upside down", SIDE, -SIDE, b"\0\1"),
    ):
        yield upload("huge BMP", f"RLE8 {name}", partial(bmp, width, height, 8, 1, data))
    for name, make in (
        ("no data", partial(bmp, SIDE, SIDE, 24, 0, b"")),
        ("claims 2**31", partial(bmp, 2**31 - 1, 2**31 - 1, 32, 0, b"")),
        ("negative width", partial(bmp, -64, 64, 24, 0, bytes(64 * 64 * 3))),
        ("offset outside", partial(bmp, 64, 64, 24, 0, bytes(64 * 64 * 3), offset=2**32 - 1)),
        ("colours outside", partial(bmp, 64, 64, 8, 0, bytes(64 * 64), colours=2**32 - 1)),
    ):
        yield upload("huge BMP", name, make, REJECTED)
    for mode in ("L", "RGB", "CMYK"):
        for progressive in (False, True):
            make = partial(_flat_jpeg, mode, progressive)
            yield upload("huge JPEG", f"{mode}, progressive {progressive}", make)


def _claims(side: int) -> bytes:
    header = struct.pack(">IIBBBBB", side, side, 8, 6, 0, 0, 0)
    return SIGNATURE + chunk(b"IHDR", header) + chunk(b"IDAT", zeros(9)) + chunk(b"IEND", b"")


def _flat_jpeg(mode: str, progressive: bool) -> bytes:
    stream = io.BytesIO()
    side = SIDE if mode == "L" else 4_000
    Image.new(mode, (side, side)).save(stream, "JPEG", progressive=progressive)
    return stream.getvalue()


def _crowded() -> Iterator[HttpInput]:
    """Yield small images with too many parts, or with parts that unpack to much."""
    bomb = zeros(200_000_000)
    for name, extra in (
        ("800,000 empty chunks", lambda: chunk(b"tIME", b"") * 800_000),
        ("400,000 text chunks", lambda: chunk(b"tEXt", b"a\0b") * 600_000),
        ("iCCP bomb", lambda: chunk(b"iCCP", b"a\0\0" + bomb)),
        ("20 zTXt bombs", lambda: chunk(b"zTXt", b"a\0\0" + bomb) * 20),
        ("iTXt bomb", lambda: chunk(b"iTXt", b"a\0\1\0\0\0" + bomb)),
        ("eXIf of 9 MB", lambda: chunk(b"eXIf", b"II*\0" + b"\xff" * 9_000_000)),
        ("eXIf in a circle", lambda: chunk(b"eXIf", exif_circle())),
        (
            "10,000 frames",
            lambda: (
                chunk(b"acTL", struct.pack(">II", 10_000, 0)) + chunk(b"fcTL", bytes(26)) * 10_000
            ),
        ),
        ("unknown critical chunk", lambda: chunk(b"ABCD", bytes(100))),
        ("false length", lambda: struct.pack(">I", 2**31) + b"tEXt"),
    ):
        make = partial(_png_with, extra)
        yield upload("crowded PNG", name, make)
    yield upload("crowded PNG", "IDAT unpacks to 500 MB", partial(png, 8, 8, 0, spare=500_000_000))
    yield upload("crowded PNG", "500,000 IDAT chunks", _split_data)
    for name, make_jpeg in (
        ("2 million comments", lambda: jpeg_with(b"\xff\xfe\0\2" * 2_400_000)),
        ("9 MB of fill bytes", lambda: jpeg_with(b"\xff" * 9_000_000)),
        ("4 million restarts", lambda: jpeg_with(b"\xff\xd0" * 4_500_000)),
        ("restarts in a scan", lambda: photo("JPEG")[:-2] + b"\xff\xd0" * 4_500_000 + b"\xff\xd9"),
        ("stuffed bytes", lambda: photo("JPEG")[:-2] + b"\xff\0" * 4_500_000 + b"\xff\xd9"),
        ("EXIF of 60 kB", lambda: jpeg_with(exif_segment(b"MM\0*" + b"\xee" * 60_000))),
        ("EXIF in a circle", lambda: jpeg_with(exif_segment(exif_circle()))),
        ("150 EXIF segments", lambda: jpeg_with(exif_segment(b"MM\0*" + b"\xee" * 60_000) * 150)),
        ("profile of 9 MB", lambda: photo("JPEG", icc_profile=bytes(9_000_000))),
        (
            "XMP of 60 kB",
            lambda: jpeg_with(segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + b"<" * 60_000)),
        ),
        ("500 scans", lambda: many_scans(SIDE, 500)),
        ("10 MB of scans", lambda: many_scans(2_000, 10**6)),
        ("scans of 8 x 8", lambda: many_scans(8, 10**6)),
        ("12 bits", lambda: patched_frame(photo("JPEG"), precision=12)),
        ("arithmetic coding", lambda: patched_frame(photo("JPEG"), marker=0xC9)),
        ("lossless", lambda: patched_frame(photo("JPEG"), marker=0xC3)),
        ("claims 65535", lambda: patched_frame(photo("JPEG"), side=65_535)),
        ("claims more than its scan", lambda: patched_frame(photo("JPEG"), side=SIDE)),
        ("small CMYK", lambda: photo("JPEG", mode="CMYK")),
        ("no scan", lambda: photo("JPEG").partition(b"\xff\xda")[0] + b"\xff\xd9"),
    ):
        yield upload("crowded JPEG", name, make_jpeg)


def _png_with(extra: Callable[[], bytes]) -> bytes:
    return png(8, 8, 2, extra=extra())


def _split_data() -> bytes:
    data = zlib.compress(random.Random(3).randbytes(8 * 25), 0)
    parts = b"".join(chunk(b"IDAT", bytes([each])) for each in data[:100])
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 0))
    return SIGNATURE + header + chunk(b"IDAT", b"") * 600_000 + parts + chunk(b"IEND", b"")


def _damaged() -> Iterator[HttpInput]:
    for image_format in _FORMATS:
        body = photo(image_format)
        yield upload("intact", image_format, partial(bytes, body), HTTP_OK)
        for tenth in range(10):
            part = body[: len(body) * tenth // 10]
            yield upload("truncated", f"{image_format} {tenth}/10", partial(bytes, part), REJECTED)
        rng = random.Random(image_format)
        for seed in range(4):
            flipped = bytearray(body)
            for _ in range(8):
                flipped[rng.randrange(len(body))] = rng.randrange(256)
            yield upload("flipped", f"{image_format} {seed}", partial(bytes, flipped))
        part = body[:12] + rng.randbytes(5_000)
        yield upload("flipped", f"{image_format} then noise", partial(bytes, part), REJECTED)


def _mislabelled() -> Iterator[HttpInput]:
    png_body, jpeg_body = photo("PNG"), photo("JPEG")
    archive = b"PK\3\4" + bytes(26) + b"PK\5\6" + bytes(18)
    for name, body in (
        ("PNG and archive", png_body + archive),
        ("JPEG and archive", jpeg_body + archive),
        ("GIF and script", photo("GIF").replace(b"GIF89a", b"GIF89a", 1) + b"*/=1;alert(1)//"),
        ("PDF that holds a JPEG", b"%PDF-1.4\n" + jpeg_body),
        (
            "SVG",
            b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>",
        ),
        ("text that begins with BM", b"BM is a text" * 20),
        ("RIFF sound", b"RIFF" + struct.pack("<I", 40) + b"WAVEfmt " + bytes(32)),
        ("archive", archive),
        ("PNG in a PNG", png_body[:33] + png_body + png_body[33:]),
        ("two PNG", png_body * 2),
    ):
        yield upload("polyglot", name, partial(bytes, body))
    for media_type in (
        "image/svg+xml",
        "text/html",
        "application/json",
        "video/mp4",
        "multipart/mixed",
        "image/jpeg",
        "",
        "image/png; charset=\xff",
        "a/" + "b" * 8_000,
        "application/x-www-form-urlencoded",
        "*",
    ):
        name = repr(media_type[:40])
        field = f"Content-Type: {media_type}"
        yield upload("media type", name, partial(bytes, png_body), fields=(field,))


EXPENSIVE = ("huge PNG", "huge overlay", "huge WebP", "huge GIF", "huge BMP", "huge JPEG")
"""Kinds that take the most memory."""
