"""Generators of images that cost much to decode, or that only look like images.

`large` makes honest files of many pixels, of every accepted kind: few bytes, because they are flat.
`crafted` makes files that keep a parser or a decoder busy; every one must be rejected.
"""

import io
import struct
import zlib
from collections.abc import Callable, Iterator

from PIL import Image

PNG = b"\x89PNG\r\n\x1a\n"
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
# Offset and step of the passes of an interlaced PNG.
_PASSES = (
    *((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4)),
    *((0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)),
)


def chunk(name: bytes, content: bytes = b"") -> bytes:
    checksum = struct.pack(">I", zlib.crc32(name + content))
    return struct.pack(">I", len(content)) + name + content + checksum


def png(
    size: tuple[int, int],
    *,
    depth: int = 8,
    colour: int = 6,
    interlaced: bool = False,
    extra: bytes = b"",
) -> bytes:
    """Flat PNG whose rows have the slowest filter (Paeth); `extra` are chunks before the pixels."""
    compress = zlib.compressobj(1)
    width, height = size
    passes = _PASSES if interlaced else ((0, 0, 1, 1),)
    parts = []
    for left, top, x, y in passes:
        columns, rows = -(-(width - left) // x), -(-(height - top) // y)
        row = b"\4" + b"\1" * ((columns * _CHANNELS[colour] * depth + 7) // 8)
        parts += [compress.compress(row) for _ in range(rows)]
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, int(interlaced))
    palette = chunk(b"PLTE", bytes(range(256)) * 3) if colour == 3 else b""
    pixels = chunk(b"IDAT", b"".join(parts) + compress.flush())
    return PNG + chunk(b"IHDR", header) + palette + extra + pixels + chunk(b"IEND")


def bmp(size: tuple[int, int], *, bits: int, compression: int = 0, rows: bytes = b"") -> bytes:
    width, height = size
    rows = rows or bytes((width * bits + 31) // 32 * 4 * height)
    palette = bytes(4 << bits) if bits <= 8 else b""
    start = 54 + len(palette)
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, compression, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", start + len(rows), 0, 0, start) + header + palette + rows


def saved(image: Image.Image, image_format: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, image_format, **options)
    return stream.getvalue()


def segment(marker: int, content: bytes = b"") -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content


def scans(size: tuple[int, int], count: int, *, refining: bool = False) -> bytes:
    """Progressive JPEG with `count` scans of end-of-band runs: little to read, much to decode."""
    width, height = size
    blocks = -(-width // 8) * -(-height // 8)

    def packed(bits: str) -> bytes:
        bits += "1" * (-len(bits) % 8)
        return int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\0")

    def table(kind: int, symbol: int) -> bytes:
        return segment(0xC4, bytes([kind << 4, 1, *[0] * 15, symbol]))

    runs, left = "", blocks
    while left > 0:  # the symbol E0 stands for 16,384 blocks and more
        run = min(left, 32767)
        runs += "0" + format(max(run - 16384, 0), "014b")
        left -= max(run, 16384)
    frame = segment(0xC2, struct.pack(">BHHB3B", 8, height, width, 1, 1, 0x11, 0))
    start = b"\xff\xd8" + segment(0xDB, b"\0" + b"\1" * 64) + frame + table(0, 0) + table(1, 0xE0)
    first = segment(0xDA, bytes([1, 1, 0, 0, 0, 0])) + packed("0" * blocks)
    approximation = 0x10 if refining else 0
    other = segment(0xDA, bytes([1, 1, 0, 1, 63, approximation])) + packed(runs)
    return start + first + other * count + b"\xff\xd9"


def webp_chunk(name: bytes, content: bytes) -> bytes:
    return name + struct.pack("<I", len(content)) + content + bytes(len(content) & 1)


def large(size: tuple[int, int]) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """Yield names and makers of files of `size`, of every accepted kind."""
    for name, depth, colour in (
        *(("grey", 8, 0), ("colour", 8, 2), ("palette", 8, 3), ("grey alpha", 8, 4)),
        *(("colour alpha", 8, 6), ("grey 16 bits", 16, 0), ("grey alpha 16 bits", 16, 4)),
        *(("colour 16 bits", 16, 2), ("colour alpha 16 bits", 16, 6), ("black and white", 1, 0)),
    ):
        yield (
            f"png {name}",
            lambda depth=depth, colour=colour: png(  # type: ignore[misc]
                size, depth=depth, colour=colour
            ),
        )
    yield "png interlaced", lambda: png(size, interlaced=True)
    transparent = {3: bytes(range(256)), 2: bytes(6), 0: bytes(2)}
    for colour, name in ((3, "palette"), (2, "colour"), (0, "grey 16 bits")):
        extra = chunk(b"tRNS", transparent[colour])
        depth = 16 if colour == 0 else 8
        yield (
            f"png {name} with a transparent colour",
            lambda colour=colour, extra=extra, depth=depth: png(  # type: ignore[misc]
                size, colour=colour, extra=extra, depth=depth
            ),
        )
    animation = chunk(b"acTL", struct.pack(">II", 2, 0))
    frame = struct.pack(">IIIIIHHBB", 0, *size, 0, 0, 1, 10, 1, 0)
    yield "png animated", lambda: png(size, extra=animation + chunk(b"fcTL", frame))
    colour_image = Image.new("RGB", size, (200, 30, 30))
    yield "jpeg", lambda: saved(colour_image, "JPEG")
    yield "jpeg progressive", lambda: saved(colour_image, "JPEG", progressive=True)
    yield (
        "jpeg progressive 4:4:4",
        lambda: saved(colour_image, "JPEG", progressive=True, subsampling=0),
    )
    yield "jpeg cmyk", lambda: saved(colour_image.convert("CMYK"), "JPEG", quality=30)
    yield "jpeg turned", lambda: saved(colour_image, "JPEG", exif=_turned())
    yield "gif", lambda: saved(colour_image.convert("P"), "GIF")
    yield "bmp black and white", lambda: bmp(size, bits=1)
    yield "webp lossless", lambda: saved(colour_image, "WEBP", lossless=True, method=0)
    yield (
        "webp lossless alpha",
        lambda: saved(
            Image.new("RGBA", size, (1, 2, 3, 4)), "WEBP", lossless=True, method=0, exact=True
        ),
    )
    yield "webp lossy", lambda: saved(colour_image, "WEBP", method=0)
    yield "webp lossy alpha", lambda: saved(Image.new("RGBA", size, (1, 2, 3, 4)), "WEBP", method=0)


def _turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif.tobytes()


def crafted(length: int = 9_600_000) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """Yield names and makers of files of about `length` bytes that must be rejected at once."""
    small = png((9, 9))
    head, tail = small[:33], small[33:]
    jpeg = saved(Image.new("RGB", (9, 9)), "JPEG")
    gif = saved(Image.new("P", (9, 9)), "GIF")
    gif_head, gif_tail = gif[: gif.index(b",\0\0\0\0")], gif[gif.index(b",\0\0\0\0") :]
    webp = saved(Image.new("RGB", (9, 9)), "WEBP", lossless=True)

    def riff(chunks: bytes) -> bytes:
        return b"RIFF" + struct.pack("<I", len(chunks) + 4) + b"WEBP" + chunks

    text = zlib.compress(bytes(1_000_000))
    extended = webp_chunk(b"VP8X", b"\x02\0\0\0" + b"\x08\0\0" * 2)
    frame = webp_chunk(b"ANMF", bytes(6) + b"\x08\0\0" * 2 + bytes(4) + webp[12:])
    yield "png empty chunks", lambda: head + chunk(b"teSt") * (length // 12) + tail
    yield "png empty pixel chunks", lambda: head + chunk(b"IDAT") * (length // 12) + tail
    yield "png compressed texts", lambda: head + chunk(b"zTXt", b"a\0\0" + text) * 100 + tail
    yield (
        "png international texts",
        lambda: head + chunk(b"iTXt", b"a\0\1\0\0\0" + text) * 100 + tail,
    )
    yield "png frames", lambda: head + tail[:-12] + chunk(b"fcTL", bytes(26)) * (length // 38)
    yield "jpeg comments", lambda: jpeg[:2] + segment(0xFE) * (length // 4) + jpeg[2:]
    yield "jpeg tables", lambda: jpeg[:2] + segment(0xDB) * (length // 4) + jpeg[2:]
    yield "jpeg restarts", lambda: jpeg[:2] + b"\xff\xd0" * (length // 2) + jpeg[2:]
    yield "jpeg scans", lambda: scans((6320, 6320), 500)
    yield "jpeg refining scans", lambda: scans((6320, 6320), 100, refining=True)
    yield "jpeg many small scans", lambda: scans((8, 8), 100_000)
    yield (
        "jpeg segments between scans",
        lambda: scans((8, 8), 1)[:-2] + segment(0xFE) * (length // 4) + b"\xff\xd9",
    )
    yield "gif comments", lambda: gif_head + b"!\xfe\1a\0" * (length // 5) + gif_tail
    yield (
        "gif long comment",
        lambda: gif_head + b"!\xfe" + b"\1a" * (length // 2) + b"\0" + gif_tail,
    )
    yield "gif junk", lambda: gif_head + b"\1" * length + gif_tail
    yield "webp chunks", lambda: riff(webp[12:] + webp_chunk(b"abcd", b"") * (length // 8))
    yield (
        "webp frames",
        lambda: riff(extended + webp_chunk(b"ANIM", bytes(6)) + frame * (length // len(frame))),
    )
    yield (
        "bmp runs of one pixel",
        lambda: bmp((3000, 3000), bits=8, compression=1, rows=b"\1\5" * (length // 2)),
    )
    yield "bmp short rows", lambda: bmp((6320, 6320), bits=8, compression=1, rows=b"\0\0" * 6320)
    yield (
        "bmp half bytes",
        lambda: bmp((6320, 6320), bits=4, compression=2, rows=b"\xff\x12" * 160_000),
    )
    column = struct.pack(">IIBBBBB", 1, 40_000_000, 8, 0, 0, 0, 0)
    yield "png column", lambda: PNG + chunk(b"IHDR", column) + tail
    yield "png row", lambda: png((40_000_000, 1))


def cluttered(length: int = 9_600_000) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """Yield names and makers of small images with `length` bytes of metadata, in few parts."""
    image = Image.new("RGB", (9, 7))
    jpeg, mark = saved(image, "JPEG"), b"Exif\0\0"
    part = segment(0xE1, mark + bytes(600))
    yield "jpeg exif parts", lambda: jpeg[:2] + part * (length // len(part)) + jpeg[2:]
    yield (
        "jpeg exif marks",
        lambda: jpeg[:2] + segment(0xE1, mark * 10_000) * (length // 60_000) + jpeg[2:],
    )
    xmp = segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + b"tiff:Orientation" * 3000)
    yield "jpeg xmp parts", lambda: jpeg[:2] + xmp * (length // len(xmp)) + jpeg[2:]
    yield "webp exif marks", lambda: saved(image, "WEBP", exif=mark * (length // 6))
    yield "webp xmp", lambda: saved(image, "WEBP", xmp=b"tiff:Orientation=" * (length // 17))
    yield "png exif marks", lambda: png((9, 7), extra=chunk(b"eXIf", mark * (length // 6)))
    text = b"Raw profile type exif\0" + b"\n" * (length - 30)
    yield "png raw profile", lambda: png((9, 7), extra=chunk(b"tEXt", text))
    other = chunk(b"tEXt", b"a\0" + b"b" * (length // 10_000))
    yield "png texts", lambda: png((9, 7), extra=other * 9000)
    entries = overlapping_exif(3000, length - 50_000)
    yield "png overlapping exif", lambda: png((9, 7), extra=chunk(b"eXIf", entries))
    yield "webp overlapping exif", lambda: saved(image, "WEBP", exif=entries)


def overlapping_exif(entries: int, size: int) -> bytes:
    """EXIF data whose entries all point to the same `size` bytes."""
    count = struct.pack("<H", entries)
    table = b"".join(struct.pack("<HHII", 0x8000 + at, 1, size, 8) for at in range(entries))
    data = b"II*\0" + struct.pack("<I", 8) + count + table + bytes(4)
    return data + bytes(max(0, size + 8 - len(data)))
