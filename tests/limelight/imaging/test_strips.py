"""Conversion in strips must give the same pixels as conversion of the whole image."""

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo

from limelight.imaging import decoding, preprocessing, strips
from limelight.imaging.decoding import DecodedImage, decode, plain
from limelight.imaging.image_rule import ImageRule
from limelight.imaging.orientation import orientation_of
from limelight.imaging.preprocessing import View, prepare, read_upload, read_with_picture
from limelight.imaging.strips import Strips
from tests.limelight.imaging.test_decoding import noise
from tests.serving_kit import encode

MANY = 10**8
CROP = ImageRule(height=4, width=5, mode="RGB", fit="crop", invert="never", background=0)
INK = ImageRule(height=28, width=28, mode="L", fit="ink", invert="light-border", background=255)
MODES = ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"]
sizes = st.tuples(st.integers(1, 90), st.integers(1, 90))


def in_strips(decoded: DecodedImage) -> Strips:
    """Force strips of a few pixels."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoding, "WHOLE_PIXELS", 0)
        found = decoded.pixels()
    assert isinstance(found, Strips)
    return found


@pytest.fixture(autouse=True)
def small_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strips, "STRIP_PIXELS", 70)


@pytest.mark.parametrize("rule", [CROP, INK], ids=["crop", "ink"])
@example(size=(86, 20), mode="1", orientation=5, transparent=False, seed=2)
@given(
    size=sizes,
    mode=st.sampled_from(MODES),
    orientation=st.integers(1, 8),
    transparent=st.booleans(),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_strips_give_the_same_input_as_the_whole_image(
    rule: ImageRule,
    size: tuple[int, int],
    mode: str,
    orientation: int,
    transparent: bool,
    seed: int,
) -> None:
    source = noise(size, mode, seed)
    if transparent and mode in ("L", "P", "I;16"):
        source.info["transparency"] = 7
    full_size = size[::-1] if orientation >= 5 else size
    decoded = DecodedImage(source, full_size, orientation)
    assert decoded.image.size == decoded.size == full_size
    pixels, view = prepare(decoded.image, rule)
    striped, striped_view = prepare(in_strips(decoded), rule)
    # Without reduction, Pillow filters first along the axis that costs less, which depends on the
    # size of the image around the box. The first pass is rounded, and clipped to 0 and 255, so the
    # other order differs by up to 3 levels for the example above. Weak ink is brightened, and the
    # difference with it. A strip in the wrong place would differ by a hundred levels in noise.
    is_reduced = rule is CROP and min(size[0] / 5, size[1] / 4) >= 6 and orientation < 5
    np.testing.assert_allclose(striped, pixels, rtol=0, atol=0 if is_reduced else 8)
    assert striped_view == view


@given(
    size=sizes,
    mode=st.sampled_from(["L", "LA", "RGB", "RGBA"]),
    orientation=st.integers(1, 8),
    factor=st.tuples(st.integers(1, 9), st.integers(1, 9)),
)
@settings(max_examples=60, deadline=None)
def test_strips_are_reduced_like_the_whole_image(
    size: tuple[int, int], mode: str, orientation: int, factor: tuple[int, int]
) -> None:
    full_size = size[::-1] if orientation >= 5 else size
    decoded = DecodedImage(noise(size, mode), full_size, orientation)
    expected = decoded.image.reduce(factor)
    reduced = in_strips(decoded).reduce(factor)
    assert (reduced.mode, reduced.size) == (expected.mode, expected.size)
    np.testing.assert_array_equal(np.asarray(reduced), np.asarray(expected))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "WEBP"])
def test_every_orientation_is_turned_upright_as_by_pillow(
    image_format: str, orientation: int
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = noise((9, 7), "RGB")
    options = {"lossless": True} if image_format == "WEBP" else {}
    body = encode(image, image_format, exif=exif, **options)
    with Image.open(io.BytesIO(body)) as opened:
        upright = ImageOps.exif_transpose(opened)
    decoded = decode(body, max_pixels=MANY)
    assert decoded.full_size == decoded.size == upright.size
    assert decoded.image.tobytes() == plain(upright).tobytes()
    whole = in_strips(decoded).crop((0, 0, *upright.size))
    assert whole.tobytes() == decoded.image.tobytes()


@pytest.mark.parametrize(
    ("exif", "xmp", "expected"),
    [
        (b"", b"", 1),
        (b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0", b"", 6),
        (b"II*\0\x08\0\0\0\x01\0\x12\x01\x04\0\x01\0\0\0\x08\0\0\0", b"", 8),
        (b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x03\0\0\0", b"", 3),
        (b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x09\0\0\0", b"", 1),
        (b"II*\0\xff\xff\xff\xff", b"", 1),
        (b"junk", b'<x tiff:Orientation="5"/>', 5),
        (b"", b"<tiff:Orientation>7</tiff:Orientation>", 7),
        (b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x02\0\0\0", b'tiff:Orientation="5"', 2),
    ],
)
def test_orientation_is_read_from_exif_and_else_from_xmp(
    exif: bytes, xmp: bytes, expected: int
) -> None:
    assert orientation_of(exif, xmp) == expected


def test_orientation_is_read_from_a_raw_profile() -> None:
    """ImageMagick writes EXIF data as text into PNG files."""
    exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0"
    profile = f"\nexif\n      {len(exif)}\n{exif.hex()}\n"
    info = PngInfo()
    info.add_text("Raw profile type exif", profile)
    body = encode(noise((9, 7), "RGB"), "PNG", pnginfo=info)
    assert decode(body, max_pixels=MANY).size == (7, 9)


@pytest.mark.parametrize("rule", [CROP, INK], ids=["crop", "ink"])
@pytest.mark.parametrize("most_pixels", [None, 10**6, 30_000, 500])
@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "WEBP", "GIF"])
def test_input_does_not_depend_on_the_picture(
    image_format: str, most_pixels: int | None, rule: ImageRule
) -> None:
    body = encode(noise((300, 200), "RGB"), image_format)
    alone = read_upload(body, rule, max_pixels=MANY)
    both = read_with_picture(body, rule, max_pixels=MANY, most_pixels=most_pixels)
    np.testing.assert_array_equal(both.pixels_hwc, alone.pixels_hwc)
    assert both.view == alone.view
    assert (both.width, both.height) == (300, 200)
    assert alone.picture is None
    assert both.picture is not None
    width, height = both.picture.size
    assert width * height <= (most_pixels or 60_000)
    if most_pixels is None or most_pixels >= 60_000:
        whole = decode(body, max_pixels=MANY).image
        assert both.picture.tobytes() == whole.tobytes()
    else:
        assert width * height > most_pixels / 6
        shown = both.view_in(both.picture)
        assert shown.width / width == pytest.approx(both.view.width / 300)


def test_large_ink_is_found_in_a_reduced_image_as_in_the_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    body = (Path(__file__).parents[3] / "examples" / "seven.png").read_bytes()
    with Image.open(io.BytesIO(body)) as opened:
        large = opened.convert("L").resize((2400, 2400), Image.Resampling.BICUBIC)
    monkeypatch.setattr(strips, "STRIP_PIXELS", 30_000)
    pixels, view = prepare(large, INK)
    upload = read_upload(encode(large), INK, max_pixels=MANY)
    assert np.abs(upload.pixels_hwc.astype(int) - pixels).max() <= 12
    for name in ("left", "top", "width", "height"):
        assert getattr(upload.view, name) == pytest.approx(getattr(view, name), abs=30)


def test_part_of_a_reduced_picture_is_that_of_the_image() -> None:
    image = Image.linear_gradient("L").resize((400, 200))
    part = View(100, 50, 100, 80)
    full = preprocessing.prepare_part(image, CROP, part)
    reduced = preprocessing.prepare_part(image.reduce(2), CROP, part, full_size=image.size)
    assert (reduced.width, reduced.height) == (full.width, full.height) == (400, 200)
    assert reduced.view == full.view
    assert np.abs(reduced.pixels_hwc.astype(int) - full.pixels_hwc).max() <= 2
