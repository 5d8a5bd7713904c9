"""The fast path must give the same pixels and the same errors as Pillow's file parser."""

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

from limelight.errors import ImageTooLarge, LimelightError, UndecodableImage
from limelight.imaging import fast_png, fitting
from limelight.imaging import preprocessing as images
from limelight.imaging.decoding import decode, decode_with_pillow, least_size
from limelight.imaging.image_rule import ImageRule
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
    return fast_png.SIGNATURE + b"".join(chunk(*part) for part in parts)


SMALL = {
    "png grey": encode(noise((7, 5), "L"), "PNG"),
    "png colour": encode(noise((7, 5), "RGB"), "PNG", dpi=(72, 72)),
    "png palette": encode(noise((7, 5), "P"), "PNG"),
    "jpeg grey": encode(noise((20, 17), "L"), "JPEG"),
    "jpeg colour": encode(noise((20, 17), "RGB"), "JPEG"),
    "jpeg progressive": encode(noise((20, 17), "RGB"), "JPEG", progressive=True),
}


def outcome(body: bytes, *, with_pillow: bool, rule: ImageRule | None) -> Any:
    """Return everything about the decoded image, or the class of the error."""
    decoder = decode_with_pillow if with_pillow else decode
    try:
        decoded = decoder(body, max_pixels=MANY, sketch_for=rule)
    except LimelightError as error:
        return type(error)
    image = decoded.image
    return image.mode, image.size, decoded.full_size, image.tobytes()


def assert_both_paths_agree(body: bytes, rule: ImageRule | None) -> None:
    assert outcome(body, with_pillow=False, rule=rule) == outcome(body, with_pillow=True, rule=rule)


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
def test_fast_path_and_pillow_give_the_same_pixels_for_any_png(
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
    assert_both_paths_agree(body, rule)
    fast, slow = (
        read_upload(body, rule, max_pixels=MANY),
        decode_with_pillow(body, max_pixels=MANY),
    )
    pixels, view = prepare(slow.image, rule)
    np.testing.assert_array_equal(fast.pixels_hwc, pixels)
    assert (fast.view, (fast.width, fast.height)) == (view, size)


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
def test_full_size_of_any_jpeg_is_that_of_the_upload(
    size: tuple[int, int], mode: str, seed: int, options: dict[str, Any], rule: ImageRule | None
) -> None:
    if options.get("keep_rgb"):
        options["subsampling"] = (
            0  # the only value that Pillow can write without converting colours
        )
    body = encode(noise(size, mode, seed), "JPEG", **options)
    assert decode(body, max_pixels=MANY, sketch_for=rule).full_size == size


def by_pillow(body: bytes, rule: ImageRule | None) -> Any:
    """Return the pixels that Pillow's file parser and decoder give, or None for an error."""
    try:
        with Image.open(io.BytesIO(body), formats=("JPEG",)) as image:
            if rule is not None:
                image.draft(None, least_size(rule))
            image.load()
            return image.mode, image.size, image.tobytes()
    except Exception:
        return None


@given(
    size=st.tuples(st.integers(1, 200), st.integers(1, 200)),
    mode=st.sampled_from(["L", "RGB", "CMYK"]),
    options=st.fixed_dictionaries(
        {"quality": st.integers(1, 100), "progressive": st.booleans()},
        optional={
            "subsampling": st.sampled_from([0, 1, 2]),
            "restart_marker_blocks": st.integers(1, 3),
            "comment": st.binary(max_size=9),
        },
    ),
    cut=st.none() | st.integers(0, 30_000),
    rule=st.none() | rules,
)
@settings(max_examples=300, deadline=None)
def test_jpeg_has_the_pixels_of_pillow_or_is_rejected_as_by_pillow(
    size: tuple[int, int],
    mode: str,
    options: dict[str, Any],
    cut: int | None,
    rule: ImageRule | None,
) -> None:
    body = encode(noise(size, mode), "JPEG", **options)[:cut]
    expected = by_pillow(body, rule)
    try:
        image = decode(body, max_pixels=MANY, sketch_for=rule).source
    except LimelightError:
        assert expected is None
    else:
        assert (image.mode, image.size, image.tobytes()) == expected


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_plain_png_files_take_the_fast_path(mode: str) -> None:
    body = encode(noise((9, 7), mode), "PNG", dpi=(72, 72))
    assert b"pHYs" in body
    image = fast_png.decode(body, max_pixels=MANY)
    assert image is not None
    assert image.mode == mode


def test_files_with_an_orientation_are_left_to_pillow() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = noise((9, 7), "RGB")
    for body in (encode(turned, "PNG", exif=exif), encode(turned, "JPEG", exif=exif)):
        assert fast_png.decode(body, max_pixels=MANY) is None
        assert decode(body, max_pixels=MANY).full_size == (7, 9)
        assert_both_paths_agree(body, CROP)


@pytest.mark.parametrize(
    "text", [b"Raw profile type exif\0\n\n\n4d4d", b"transparency\0x", b"interlace\0x", b"exif\0x"]
)
def test_png_with_a_text_chunk_is_left_to_pillow(text: bytes) -> None:
    """Pillow stores texts in the same dictionary as its own facts about the image."""
    head, *rest = chunks(encode(noise((9, 7), "RGB"), "PNG"))
    body = assemble([head, (b"tEXt", text), *rest])
    assert fast_png.decode(body, max_pixels=MANY) is None
    assert_both_paths_agree(body, CROP)


@pytest.mark.parametrize(("name", "length"), [("gAMA", 4), ("cHRM", 32), ("sRGB", 1), ("pHYs", 9)])
def test_chunk_that_pillow_rejects_is_rejected(name: str, length: int) -> None:
    head, *rest = chunks(SMALL["png grey"])
    whole = assemble([head, (name.encode(), bytes(length)), *rest])
    assert fast_png.decode(whole, max_pixels=MANY) is not None
    short = assemble([head, (name.encode(), bytes(length - 1)), *rest])
    with pytest.raises(UndecodableImage):
        decode(short, max_pixels=MANY)


def test_png_with_separated_idat_chunks_is_left_to_pillow() -> None:
    head, (_, pixels), end = chunks(encode(noise((9, 7), "RGB"), "PNG"))
    parts = [(b"IDAT", pixels[:20]), (b"tIME", b""), (b"IDAT", pixels[20:])]
    body = assemble([head, *parts, end])
    assert fast_png.decode(body, max_pixels=MANY) is None
    assert_both_paths_agree(body, CROP)


@pytest.mark.parametrize("name", SMALL)
def test_file_truncated_at_any_byte_gives_the_same_result_on_both_paths(name: str) -> None:
    body = SMALL[name]
    for length in range(len(body)):
        assert_both_paths_agree(body[:length], CROP)
        if name.startswith("png") and length >= len(fast_png.SIGNATURE):
            with pytest.raises(UndecodableImage):
                decode(body[:length], max_pixels=MANY)


@pytest.mark.parametrize("name", SMALL)
@given(data=st.data())
@settings(max_examples=300, deadline=None)
def test_file_with_changed_bytes_gives_the_same_result_on_both_paths(
    name: str, data: st.DataObject
) -> None:
    damaged = bytearray(SMALL[name])
    places = st.integers(0, len(damaged) - 1)
    for place in data.draw(st.lists(places, min_size=1, max_size=3)):
        damaged[place] = data.draw(st.integers(0, 255))
    body = bytes(damaged)
    assert_both_paths_agree(body, CROP)


@given(data=st.data())
@settings(max_examples=300, deadline=None)
def test_forged_png_with_valid_checksums_gives_the_same_result_on_both_paths(
    data: st.DataObject,
) -> None:
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
    assert_both_paths_agree(assemble(parts), CROP)


def test_flipped_bit_at_any_byte_of_a_png_is_rejected() -> None:
    """Pillow alone would accept wrong pixels that the decompressor does not detect."""
    body = SMALL["png colour"]
    for place in range(8, len(body)):
        damaged = bytearray(body)
        damaged[place] ^= 0x10
        with pytest.raises((UndecodableImage, ImageTooLarge)):
            decode(bytes(damaged), max_pixels=MANY)


def test_png_without_its_end_marker_is_rejected() -> None:
    body = SMALL["png palette"]
    assert decode(body, max_pixels=MANY).full_size == (7, 5)
    with pytest.raises(UndecodableImage, match="truncated"):
        decode(body[:-12], max_pixels=MANY)


def test_decompression_stops_at_the_size_in_the_header() -> None:
    filled = zlib.compress(bytes(64_000_000), 9)
    header = struct.pack(">IIBBBBB", 8, 8, 8, 0, 0, 0, 0)
    bomb = assemble([(b"IHDR", header), (b"IDAT", filled), (b"IEND", b"")])
    started = time.perf_counter()
    zlib.decompress(filled)
    inflating = time.perf_counter() - started
    started = time.perf_counter()
    image = fast_png.decode(bomb, max_pixels=MANY)
    assert image is not None
    assert image.tobytes() == bytes(64)
    assert time.perf_counter() - started < inflating / 5


def test_pixel_limit_applies_to_png_and_jpeg() -> None:
    for body in (SMALL["png grey"], SMALL["jpeg grey"]):
        size = decode(body, max_pixels=MANY).full_size
        limit = size[0] * size[1]
        assert decode(body, max_pixels=limit).full_size == size
        with pytest.raises(ImageTooLarge):
            decode(body, max_pixels=limit - 1)


def test_png_with_too_many_chunks_is_rejected() -> None:
    head, *rest = chunks(SMALL["png grey"])
    assert fast_png.is_whole(assemble([head, *[(b"tIME", b"")] * 1000, *rest]))
    many = assemble([head, *[(b"tIME", b"")] * 70_000, *rest])
    assert not fast_png.is_whole(many)
    assert fast_png.decode(many, max_pixels=MANY) is None


@given(
    levels=st.lists(st.sampled_from([0, 1, 126, 127, 128, 129, 255]), min_size=25, max_size=25),
)
@settings(max_examples=500, deadline=None)
def test_light_border_is_detected_as_with_numpy(levels: list[int]) -> None:
    grey = np.array(levels, np.uint8).reshape(5, 5)
    light = fitting.border_median(Image.fromarray(grey)) > 127
    assert images._has_light_border(grey.tobytes(), 5) is bool(light)
    rule = INK.model_copy(update={"width": 5, "height": 5})
    pixels, _ = prepare(Image.fromarray(grey), rule)
    np.testing.assert_array_equal(pixels[:, :, 0], 255 - grey if light else grey)


def test_light_colour_border_is_detected_by_grey_level_and_inverted_in_colour() -> None:
    rule = CROP.model_copy(update={"invert": "light-border"})
    colours = np.full((4, 4, 3), (250, 200, 10), np.uint8)
    np.testing.assert_array_equal(prepare(Image.fromarray(colours), rule)[0], 255 - colours)
    colours[:] = (10, 100, 250)
    np.testing.assert_array_equal(prepare(Image.fromarray(colours), rule)[0], colours)


def test_small_plain_files_are_quick_and_others_are_not() -> None:
    assert is_quick(encode(noise((28, 28), "L"), "PNG"))
    assert is_quick(encode(noise((32, 32), "RGB"), "PNG"))
    assert not is_quick(encode(noise((32, 32), "RGB"), "JPEG"))  # its size is not at a fixed offset
    assert not is_quick(encode(noise((64, 64), "RGBA"), "PNG"))  # noise: 16 kB
    assert not is_quick(encode(Image.new("L", (65, 64)), "PNG"))  # 100 bytes
    assert not is_quick(encode(noise((9, 9), "RGB"), "WEBP"))
    assert not is_quick(b"")
    assert is_quick(encode(noise((28, 28), "L"), "PNG"), INK)
    assert not is_quick(encode(noise((28, 27), "L"), "PNG"), INK)
    assert is_quick(encode(noise((28, 27), "L"), "PNG"), CROP)


@given(
    start=st.sampled_from(
        [b"", fast_png.SIGNATURE, fast_png.SIGNATURE + b"\0\0\0\rIHDR", b"\xff\xd8\xff"]
    ),
    rest=st.binary(max_size=40),
)
@settings(max_examples=500, deadline=None)
def test_is_quick_never_raises_for_any_bytes(start: bytes, rest: bytes) -> None:
    assert is_quick(start + rest) in (True, False)


@pytest.mark.parametrize("name", [name for name in SMALL if name.startswith("png")])
def test_is_quick_never_raises_for_a_truncated_png(name: str) -> None:
    body = SMALL[name]
    assert is_quick(body)
    for length in range(len(body)):
        is_quick(body[:length])


def test_plain_files_are_decoded_without_a_file_parser(monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(body: bytes, formats: tuple[str, ...]) -> Image.Image:
        raise AssertionError("opened")

    monkeypatch.setattr("limelight.imaging.decoding.open_checked", opened)
    for name in ("png grey", "png colour"):
        assert decode(SMALL[name], max_pixels=MANY, sketch_for=CROP).full_size == (7, 5)
    with pytest.raises(UndecodableImage):  # `decode` converts any exception of Pillow to this
        decode(SMALL["png palette"], max_pixels=MANY)
