"""TIFF, AVIF and HEIC: pixels, orientation and limits, and that uploads of them are rejected."""

import contextlib
import subprocess
import sys
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, features

from limelight.errors import (
    ImageTooLarge,
    LimelightError,
    UndecodableImage,
    UnsupportedMediaType,
)
from limelight.imaging.decoding import DecodedImage, decode
from limelight.imaging.formats import FORMATS
from limelight.imaging.headers.inspection import inspect
from limelight.imaging.orientation import UPRIGHT
from limelight.imaging.strips import Strips
from tests.own_images import HEIC_START, OWN, encoded, exif_of, tiff
from tests.serving_kit import REPOSITORY

CORNERS = Image.new("RGB", (60, 40), (128, 128, 128))
for _colour, _box in (
    ((250, 10, 10), (0, 0, 30, 20)),
    ((10, 250, 10), (30, 0, 60, 20)),
    ((10, 10, 250), (0, 20, 30, 40)),
):
    CORNERS.paste(_colour, _box)
# AVIF and HEIC are lossy; an image that is turned wrongly differs by 80 levels or more.
LOSS = 10
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><a tiff:Orientation="%d"/></x:xmpmeta>'


def read(body: bytes, max_pixels: int = 10**8) -> DecodedImage:
    return decode(body, max_pixels=max_pixels, own_file=True)


def difference(one: Image.Image, other: Image.Image) -> float:
    """Mean difference of the levels of two images of one size."""
    assert one.size == other.size
    levels = [np.asarray(image.convert("RGB"), np.float64) for image in (one, other)]
    return float(np.abs(levels[0] - levels[1]).mean())


@pytest.mark.parametrize("name", OWN)
def test_image_is_read_with_its_pixels(name: str) -> None:
    decoded = read(encoded(CORNERS, name))
    assert decoded.full_size == decoded.image.size == (60, 40)
    assert difference(decoded.image, CORNERS) < LOSS


@pytest.mark.parametrize("name", OWN)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_exactly_once(orientation: int, name: str) -> None:
    options = {"exif": exif_of(orientation)} if name != "TIFF" else {"tiffinfo": {274: orientation}}
    decoded = read(encoded(CORNERS, name, **options))
    upright = CORNERS.transpose(UPRIGHT[orientation]) if orientation > 1 else CORNERS
    assert decoded.full_size == decoded.size == upright.size
    assert difference(decoded.image, upright) < LOSS


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw"])
def test_tag_of_a_tiff_wins_over_its_xmp(compression: str) -> None:
    options = {"tiffinfo": {274: 6, 700: XMP % 3}, "compression": compression}
    decoded = read(encoded(CORNERS, "TIFF", **options))
    assert difference(decoded.image, CORNERS.transpose(UPRIGHT[6])) == 0


def test_exif_of_an_avif_does_not_contradict_its_own_fields() -> None:
    """The format says that only its own fields turn the image."""
    body = encoded(CORNERS, "AVIF", xmp=XMP % 6)
    assert difference(read(body).image, CORNERS) < LOSS


def test_exif_of_a_heic_does_not_contradict_its_own_fields() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    body = encoded(CORNERS, "HEIF", exif=exif)  # an object sets only the EXIF data
    assert b"Exif" in body
    assert b"irot" not in body
    assert difference(read(body).image, CORNERS) < LOSS


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"])
@pytest.mark.parametrize("size", [(60, 40), (1300, 1000)], ids=["whole", "strips"])
def test_tiff_of_every_mode_looks_like_the_image(mode: str, size: tuple[int, int]) -> None:
    image = Image.linear_gradient("L").rotate(90).resize(size).convert("RGB").convert(mode)
    decoded = read(encoded(image, "TIFF"))
    assert isinstance(decoded.pixels(), Strips) == (size != (60, 40))
    blocks = size[0] // 6, size[1] // 4
    expected = image.convert("RGB").reduce(blocks)
    assert difference(decoded.pixels().reduce(blocks), expected) < 2


@pytest.mark.parametrize(
    "compression", ["packbits", "tiff_lzw", "tiff_adobe_deflate", "jpeg", "zstd", "lzma"]
)
def test_compression_of_a_tiff_changes_no_pixel(compression: str) -> None:
    if not features.check("libtiff"):
        pytest.skip("Pillow here is built without libtiff")
    image = read(encoded(CORNERS, "TIFF", compression=compression)).image
    assert difference(image, CORNERS) <= (4 if compression == "jpeg" else 0)


def test_fax_is_read() -> None:
    image = CORNERS.convert("1")
    assert difference(read(encoded(image, "TIFF", compression="group4")).image, image) == 0


def test_big_tiff_is_read() -> None:
    assert difference(read(encoded(CORNERS, "TIFF", big_tiff=True)).image, CORNERS) == 0


@pytest.mark.parametrize("order", ["<", ">"])
def test_sixteen_bits_are_rounded_to_eight(order: str) -> None:
    levels = np.array([[0, 65535], [257 * 9, 257 * 100 + 100]], f"{order}u2")
    grey = read(tiff(levels.tobytes(), (2, 2), bits=(16,), order=order)).image
    assert grey.mode == "L"
    assert list(grey.tobytes()) == [0, 255, 9, 100]
    rgb = np.stack([levels] * 3, 2).astype(levels.dtype)
    body = tiff(rgb.tobytes(), (2, 2), bits=(16,) * 3, photometric=2, order=order)
    assert read(body).image.getpixel((0, 1)) == (9, 9, 9)


@pytest.mark.parametrize(("bits", "kind"), [(8, "u1"), (16, "<u2")])
def test_tiff_whose_zero_is_white_is_inverted(bits: int, kind: str) -> None:
    levels = np.array([[0, 1], [100, 255]]) * (257 if bits == 16 else 1)
    body = tiff(levels.astype(kind).tobytes(), (2, 2), bits=(bits,), photometric=0)
    assert list(read(body).image.tobytes()) == [255, 254, 155, 0]


def test_premultiplied_alpha_is_divided_out() -> None:
    pixel = bytes((100, 50, 0, 128))
    straight = tiff(pixel, (1, 1), bits=(8,) * 4, photometric=2, fields={338: ("H", [2])})
    premultiplied = tiff(pixel, (1, 1), bits=(8,) * 4, photometric=2, fields={338: ("H", [1])})
    assert read(straight).image.getpixel((0, 0)) == (100, 50, 0, 128)
    assert read(premultiplied).image.getpixel((0, 0)) == pytest.approx((199, 99, 0, 128), abs=1)


def tiled(pixels: bytes, size: tuple[int, int], tile: tuple[int, int], compression: int) -> bytes:
    fields = {
        259: ("H", [compression]),
        273: ("I", []), 278: ("I", []), 279: ("I", []),
        322: ("I", [tile[0]]),
        323: ("I", [tile[1]]),
        324: ("I", [8]),
        325: ("I", [len(pixels)]),
    }  # fmt: skip
    return tiff(pixels, size, bits=(8,) * 3, photometric=2, fields=fields)


@pytest.mark.parametrize("compression", [1, 8])
def test_tiles_are_read(compression: int) -> None:
    pixels = CORNERS.crop((0, 0, 64, 48)).tobytes()
    pixels = zlib.compress(pixels) if compression == 8 else pixels
    body = tiled(pixels, (60, 40), (64, 48), compression)
    assert difference(read(body).image, CORNERS) == 0


def test_tile_that_is_much_larger_than_the_image_is_rejected() -> None:
    body = tiled(zlib.compress(bytes(3 * 5000 * 5000), 1), (10, 10), (5000, 5000), 8)
    with pytest.raises(UndecodableImage, match="TIFF image is truncated or damaged, or of a kind"):
        read(body)


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw"])
def test_first_page_is_read(compression: str) -> None:
    pages = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "lime")]
    body = encoded(
        pages[0], "TIFF", save_all=True, append_images=pages[1:], compression=compression
    )
    assert difference(read(body).image, pages[0]) == 0


def test_directory_that_refers_to_itself_is_read_once() -> None:
    body = bytearray(tiff(CORNERS.tobytes(), CORNERS.size, bits=(8,) * 3, photometric=2))
    start = body[4:8]
    end = len(body) - 6 - 4  # before the three values of the field of bits
    assert body[end : end + 4] == bytes(4)
    body[end : end + 4] = start
    assert difference(read(bytes(body)).image, CORNERS) == 0


@pytest.mark.parametrize(
    ("body", "mode"),
    [
        (tiff(bytes(16), (2, 2), bits=(32,), fields={339: ("H", [3])}), "F"),
        (tiff(bytes(16), (2, 2), bits=(32,)), "I"),
        (tiff(bytes(8), (2, 2), bits=(16,), fields={339: ("H", [2])}), "I"),
        (tiff(bytes(6), (2, 2), bits=(12,)), "I;16"),
        (tiff(bytes(12), (2, 2), bits=(8,) * 3, photometric=8), "LAB"),
    ],
)
def test_pixels_without_a_known_range_are_rejected_with_advice(body: bytes, mode: str) -> None:
    advice = rf"of a kind that is not read \({mode}\): save it again with 8 or 16 bits a channel"
    with pytest.raises(UndecodableImage, match=advice):
        read(body)


@pytest.mark.parametrize("name", OWN)
def test_truncated_file_is_rejected(name: str) -> None:
    image = Image.effect_noise((90, 70), 60).convert("RGB")
    body = encoded(image, name)
    for share in (0.02, 0.2, 0.5, 0.9):
        with pytest.raises(UndecodableImage, match="is truncated or damaged, or of a kind"):
            read(body[: max(40, int(len(body) * share))])


@pytest.mark.parametrize("name", OWN)
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_changed_bytes_never_cause_another_error(name: str, data: st.DataObject) -> None:
    body = bytearray(encoded(CORNERS, name))
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(LimelightError):
        read(bytes(body), 10**6)


@pytest.mark.parametrize("name", OWN)
def test_size_is_checked_before_pixels_are_decoded(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = encoded(CORNERS, name)
    monkeypatch.setattr("limelight.imaging.decoding.decode_own", None)
    with pytest.raises(ImageTooLarge, match="60 x 40 pixels, more than 2399 in all"):
        read(body, 2399)


def test_tiff_of_huge_dimensions_is_rejected() -> None:
    packed = zlib.compress(bytes(1000))
    deflate = {259: ("H", [8])}
    for size, words in (((60_000, 60_000), "more than"), ((70_000, 1), "a side may have 65535")):
        with pytest.raises(ImageTooLarge, match=words):
            read(tiff(packed, size, bits=(8,) * 3, photometric=2, fields=deflate))


@pytest.mark.parametrize("name", OWN)
def test_upload_is_rejected(name: str) -> None:
    body = HEIC_START if name == "HEIF" else encoded(CORNERS, name)
    for refused in (inspect, decode):
        with pytest.raises(UnsupportedMediaType) as caught:
            refused(body, max_pixels=10**8)
        assert caught.value.detail == (
            f"the body is a {FORMATS[name].title} image, which is not accepted: send a PNG, JPEG, "
            "WebP, BMP or GIF image"
        )


def test_missing_decoder_is_named_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    monkeypatch.delitem(sys.modules, "pillow_heif.HeifImagePlugin", raising=False)
    with pytest.raises(UnsupportedMediaType) as caught:
        read(HEIC_START)
    assert caught.value.detail == (
        "the decoder of HEIC images is not installed: pip install 'limelight[heic]'"
    )
    body = encoded(CORNERS, "AVIF")
    monkeypatch.setattr(features, "check", lambda feature: feature != "avif")
    with pytest.raises(UnsupportedMediaType, match=r"AVIF images is not .*: pip install --upgr"):
        read(body)


def test_other_file_is_rejected_with_the_formats_that_are_read() -> None:
    with pytest.raises(
        UnsupportedMediaType,
        match=r"file is not a PNG, JPEG, WebP, BMP, GIF, TIFF, AVIF or HEIC image",
    ):
        read(b"a text")


def test_decoders_are_not_loaded_before_a_file_needs_them() -> None:
    script = (
        "import sys, limelight, service.app;"
        "limelight.load('digits').predict('examples/seven.png');"
        "print([name for name in ('PIL.TiffImagePlugin', 'PIL.AvifImagePlugin', 'pillow_heif')"
        " if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
