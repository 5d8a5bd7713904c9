"""The short ways through a file must give what Pillow's long one gives, and refuse the same."""

import io
import struct
import time
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from limelight.artifact.manifest import ImageRule
from limelight.errors import ImageTooLarge, LimelightError, UndecodableImage
from limelight.imaging import fitting, png
from limelight.imaging import preprocessing as images
from limelight.imaging.decoding import decode, decode_with_pillow
from limelight.imaging.preprocessing import is_quick, prepare, read_upload
from tests.serving_kit import encode

CROP = ImageRule(height=4, width=4, mode="RGB", fit="crop", invert="never", background=0)
INK = ImageRule(height=28, width=28, mode="L", fit="ink", invert="light-border", background=255)
MANY = 10**6

sizes = st.tuples(st.integers(1, 40), st.integers(1, 40))
rules = st.sampled_from([CROP, INK])


def noise(size: tuple[int, int], mode: str, seed: int = 0) -> Image.Image:
    levels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 4), np.uint8)
    if mode == "I;16":
        return Image.fromarray(levels[:, :, :2].copy().view(np.uint16)[:, :, 0])
    if mode == "LA":
        return Image.fromarray(levels[:, :, :2].copy())
    return Image.fromarray(levels).convert(mode)


def chunk(name: bytes, content: bytes) -> bytes:
    checksum = struct.pack(">I", zlib.crc32(name + content))
    return struct.pack(">I", len(content)) + name + content + checksum


def chunks(body: bytes) -> list[tuple[bytes, bytes]]:
    found, place = [], 8
    while place < len(body):
        length = int.from_bytes(body[place : place + 4], "big")
        found.append((body[place + 4 : place + 8], body[place + 8 : place + 8 + length]))
        place += 12 + length
    return found


def assemble(parts: list[tuple[bytes, bytes]]) -> bytes:
    return png.SIGNATURE + b"".join(chunk(*part) for part in parts)


SMALL = {
    "png grey": encode(noise((7, 5), "L"), "PNG"),
    "png colour": encode(noise((7, 5), "RGB"), "PNG", dpi=(72, 72)),
    "png palette": encode(noise((7, 5), "P"), "PNG"),
    "jpeg grey": encode(noise((20, 17), "L"), "JPEG"),
    "jpeg colour": encode(noise((20, 17), "RGB"), "JPEG"),
    "jpeg progressive": encode(noise((20, 17), "RGB"), "JPEG", progressive=True),
}


def outcome(body: bytes, *, long_way: bool, rule: ImageRule | None) -> Any:
    """All there is to know of an image, or the class of the refusal."""
    way = decode_with_pillow if long_way else decode
    try:
        decoded = way(body, max_pixels=MANY, sketch_for=rule)
    except LimelightError as error:
        return type(error)
    image = decoded.image
    return image.mode, image.size, decoded.full_size, image.tobytes()


def assert_both_ways_agree(body: bytes, rule: ImageRule | None) -> None:
    assert outcome(body, long_way=False, rule=rule) == outcome(body, long_way=True, rule=rule)


@given(
    size=sizes,
    mode=st.sampled_from(["1", "L", "LA", "P", "RGB", "RGBA", "I;16"]),
    seed=st.integers(0, 99),
    options=st.fixed_dictionaries(
        {"compress_level": st.integers(0, 9)}, optional={"transparency": st.integers(0, 255)}
    ),
    piece=st.integers(1, 5000),
    rule=rules,
)
@settings(max_examples=200, deadline=None)
def test_any_png_is_the_same_either_way(
    size: tuple[int, int],
    mode: str,
    seed: int,
    options: dict[str, int],
    piece: int,
    rule: ImageRule,
) -> None:
    if mode not in ("L", "P"):
        options.pop("transparency", None)
    parts: list[tuple[bytes, bytes]] = []
    for name, content in chunks(encode(noise(size, mode, seed), "PNG", **options)):
        if name == b"IDAT":
            cuts = range(0, len(content), piece)
            parts += [(name, content[start : start + piece]) for start in cuts]
        else:
            parts.append((name, content))
    body = assemble(parts)
    assert_both_ways_agree(body, rule)
    short, long = (
        read_upload(body, rule, max_pixels=MANY),
        decode_with_pillow(body, max_pixels=MANY),
    )
    pixels, view = prepare(long.image, rule)
    np.testing.assert_array_equal(short.pixels_hwc, pixels)
    assert (short.view, (short.width, short.height)) == (view, size)


@given(
    size=sizes,
    mode=st.sampled_from(["L", "RGB", "CMYK"]),
    seed=st.integers(0, 99),
    options=st.fixed_dictionaries(
        {"quality": st.integers(1, 100), "progressive": st.booleans()},
        optional={
            "subsampling": st.sampled_from([0, 1, 2]),
            "restart_marker_blocks": st.integers(1, 3),
            "comment": st.binary(max_size=9),
            "icc_profile": st.binary(min_size=1, max_size=99),
            "keep_rgb": st.booleans(),
        },
    ),
    rule=st.none() | rules,
)
@settings(max_examples=300, deadline=None)
def test_the_full_size_of_any_jpeg_is_that_of_the_upload(
    size: tuple[int, int], mode: str, seed: int, options: dict[str, Any], rule: ImageRule | None
) -> None:
    if options.get("keep_rgb"):
        options["subsampling"] = 0  # the only one that Pillow writes without a change of colours
    body = encode(noise(size, mode, seed), "JPEG", **options)
    assert decode(body, max_pixels=MANY, sketch_for=rule).full_size == size


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_plain_png_files_take_the_short_way(mode: str) -> None:
    body = encode(noise((9, 7), mode), "PNG", dpi=(72, 72))
    assert b"pHYs" in body
    image = png.decode(body, max_pixels=MANY)
    assert image is not None
    assert image.mode == mode


def test_whatever_could_change_the_picture_is_left_to_pillow() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = noise((9, 7), "RGB")
    for body in (encode(turned, "PNG", exif=exif), encode(turned, "JPEG", exif=exif)):
        assert png.decode(body, max_pixels=MANY) is None
        assert decode(body, max_pixels=MANY).full_size == (7, 9)
        assert_both_ways_agree(body, CROP)


@pytest.mark.parametrize(
    "text", [b"Raw profile type exif\0\n\n\n4d4d", b"transparency\0x", b"interlace\0x", b"exif\0x"]
)
def test_text_in_a_png_is_left_to_pillow(text: bytes) -> None:
    """Pillow keeps texts where it keeps what it knows of the image."""
    head, *rest = chunks(encode(noise((9, 7), "RGB"), "PNG"))
    body = assemble([head, (b"tEXt", text), *rest])
    assert png.decode(body, max_pixels=MANY) is None
    assert_both_ways_agree(body, CROP)


@pytest.mark.parametrize(("name", "length"), [("gAMA", 4), ("cHRM", 32), ("sRGB", 1), ("pHYs", 9)])
def test_a_chunk_that_pillow_refuses_is_refused(name: str, length: int) -> None:
    head, *rest = chunks(SMALL["png grey"])
    whole = assemble([head, (name.encode(), bytes(length)), *rest])
    assert png.decode(whole, max_pixels=MANY) is not None
    short = assemble([head, (name.encode(), bytes(length - 1)), *rest])
    with pytest.raises(UndecodableImage):
        decode(short, max_pixels=MANY)


def test_pixels_after_an_interruption_are_left_to_pillow() -> None:
    head, (_, pixels), end = chunks(encode(noise((9, 7), "RGB"), "PNG"))
    parts = [(b"IDAT", pixels[:20]), (b"tIME", b""), (b"IDAT", pixels[20:])]
    body = assemble([head, *parts, end])
    assert png.decode(body, max_pixels=MANY) is None
    assert_both_ways_agree(body, CROP)


@pytest.mark.parametrize("name", SMALL)
def test_a_cut_at_any_byte_is_refused_alike(name: str) -> None:
    body = SMALL[name]
    for length in range(len(body)):
        assert_both_ways_agree(body[:length], CROP)
        if name.startswith("png") and length >= len(png.SIGNATURE):
            with pytest.raises(UndecodableImage):
                decode(body[:length], max_pixels=MANY)


@pytest.mark.parametrize("name", SMALL)
@given(data=st.data())
@settings(max_examples=300, deadline=None)
def test_flipped_bytes_are_refused_alike(name: str, data: st.DataObject) -> None:
    damaged = bytearray(SMALL[name])
    places = st.integers(0, len(damaged) - 1)
    for place in data.draw(st.lists(places, min_size=1, max_size=3)):
        damaged[place] = data.draw(st.integers(0, 255))
    body = bytes(damaged)
    assert_both_ways_agree(body, CROP)


@given(data=st.data())
@settings(max_examples=300, deadline=None)
def test_forged_png_files_with_right_checksums_are_refused_alike(data: st.DataObject) -> None:
    parts = []
    for name, content in chunks(SMALL[data.draw(st.sampled_from(["png grey", "png colour"]))]):
        forged = bytearray(content)
        for _ in range(data.draw(st.integers(0, 2)) if content else 0):
            forged[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
        parts.append((name, bytes(forged)))
    extra = st.tuples(
        st.sampled_from([b"gAMA", b"cHRM", b"sRGB", b"pHYs", b"tIME", b"bKGD", b"sBIT", b"PLTE"]),
        st.binary(max_size=33),
    )
    for part in data.draw(st.lists(extra, max_size=2)):
        parts.insert(data.draw(st.integers(0, len(parts))), part)
    assert_both_ways_agree(assemble(parts), CROP)


def test_every_byte_of_a_png_is_under_a_checksum() -> None:
    """Pillow alone takes wrong pixels where the decompressor doesn't notice."""
    body = SMALL["png colour"]
    for place in range(8, len(body)):
        damaged = bytearray(body)
        damaged[place] ^= 0x10
        with pytest.raises((UndecodableImage, ImageTooLarge)):
            decode(bytes(damaged), max_pixels=MANY)


def test_a_png_without_its_end_is_refused() -> None:
    body = SMALL["png palette"]
    assert decode(body, max_pixels=MANY).full_size == (7, 5)
    with pytest.raises(UndecodableImage, match="truncated"):
        decode(body[:-12], max_pixels=MANY)


def test_no_more_is_inflated_than_the_header_announces() -> None:
    filled = zlib.compress(bytes(64_000_000), 9)
    header = struct.pack(">IIBBBBB", 8, 8, 8, 0, 0, 0, 0)
    bomb = assemble([(b"IHDR", header), (b"IDAT", filled), (b"IEND", b"")])
    started = time.perf_counter()
    zlib.decompress(filled)
    inflating = time.perf_counter() - started
    started = time.perf_counter()
    image = png.decode(bomb, max_pixels=MANY)
    assert image is not None
    assert image.tobytes() == bytes(64)
    assert time.perf_counter() - started < inflating / 5


def test_the_short_ways_keep_the_limit_on_pixels() -> None:
    for body in (SMALL["png grey"], SMALL["jpeg grey"]):
        size = decode(body, max_pixels=MANY).full_size
        limit = size[0] * size[1]
        assert decode(body, max_pixels=limit).full_size == size
        with pytest.raises(ImageTooLarge):
            decode(body, max_pixels=limit - 1)


def test_endless_chunks_are_refused() -> None:
    head, *rest = chunks(SMALL["png grey"])
    assert png.is_whole(assemble([head, *[(b"tIME", b"")] * 1000, *rest]))
    many = assemble([head, *[(b"tIME", b"")] * 70_000, *rest])
    assert not png.is_whole(many)
    assert png.decode(many, max_pixels=MANY) is None


@given(
    levels=st.lists(st.sampled_from([0, 1, 126, 127, 128, 129, 255]), min_size=25, max_size=25),
)
@settings(max_examples=500, deadline=None)
def test_the_borders_median_is_that_of_numpy(levels: list[int]) -> None:
    grey = np.array(levels, np.uint8).reshape(5, 5)
    light = fitting.border_median(Image.fromarray(grey)) > 127
    assert images._has_light_border(grey.tobytes(), 5) is bool(light)
    rule = INK.model_copy(update={"width": 5, "height": 5})
    pixels, _ = prepare(Image.fromarray(grey), rule)
    np.testing.assert_array_equal(pixels[:, :, 0], 255 - grey if light else grey)


def test_a_light_border_in_colour_is_judged_by_its_grey_and_inverted_in_colour() -> None:
    rule = CROP.model_copy(update={"invert": "light-border"})
    colours = np.full((4, 4, 3), (250, 200, 10), np.uint8)
    np.testing.assert_array_equal(prepare(Image.fromarray(colours), rule)[0], 255 - colours)
    colours[:] = (10, 100, 250)
    np.testing.assert_array_equal(prepare(Image.fromarray(colours), rule)[0], colours)


def test_small_plain_files_are_quick_and_others_are_not() -> None:
    assert is_quick(encode(noise((28, 28), "L"), "PNG"))
    assert is_quick(encode(noise((32, 32), "RGB"), "PNG"))
    assert not is_quick(encode(noise((32, 32), "RGB"), "JPEG"))  # its size stands anywhere
    assert not is_quick(encode(noise((64, 64), "RGBA"), "PNG"))  # noise: 16 kB
    assert not is_quick(encode(Image.new("L", (65, 64)), "PNG"))  # 100 bytes
    assert not is_quick(encode(noise((9, 9), "RGB"), "WEBP"))
    assert not is_quick(b"")
    assert is_quick(encode(noise((28, 28), "L"), "PNG"), INK)
    assert not is_quick(encode(noise((28, 27), "L"), "PNG"), INK)
    assert is_quick(encode(noise((28, 27), "L"), "PNG"), CROP)


@given(
    start=st.sampled_from([b"", png.SIGNATURE, png.SIGNATURE + b"\0\0\0\rIHDR", b"\xff\xd8\xff"]),
    rest=st.binary(max_size=40),
)
@settings(max_examples=500, deadline=None)
def test_any_bytes_can_be_asked_whether_they_are_quick(start: bytes, rest: bytes) -> None:
    assert is_quick(start + rest) in (True, False)


@pytest.mark.parametrize("name", [name for name in SMALL if name.startswith("png")])
def test_the_start_of_a_file_can_be_asked_whether_it_is_quick(name: str) -> None:
    body = SMALL[name]
    assert is_quick(body)
    for length in range(len(body)):
        is_quick(body[:length])


def test_the_long_way_is_not_taken_for_plain_files(monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(stream: io.BytesIO, formats: tuple[str, ...]) -> Image.Image:
        raise AssertionError("opened")

    monkeypatch.setattr(Image, "open", opened)
    for name in ("png grey", "png colour"):
        assert decode(SMALL[name], max_pixels=MANY, sketch_for=CROP).full_size == (7, 5)
    with pytest.raises(UndecodableImage):  # which is what any exception of Pillow's becomes
        decode(SMALL["png palette"], max_pixels=MANY)
