"""Registry of image formats, and the values derived from it."""

import pytest
from PIL import Image

from limelight.errors import UnsupportedMediaType
from limelight.imaging import formats
from limelight.imaging.decoding import decode
from limelight.imaging.formats import (
    FORMATS,
    ImageFormat,
    accepted,
    is_image,
    media_types,
    suffixes,
)
from limelight.imaging.headers.header import Header
from tests.own_images import encoded


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_is_recognised_by_its_own_entry_only(name: str) -> None:
    body = encoded(Image.new("RGB", (5, 4), (200, 30, 30)), name)
    assert [key for key, each in FORMATS.items() if each.recognises(body)][:1] == [name]
    assert is_image(body) == FORMATS[name].uploads


def test_brand_of_a_later_place_decides_between_avif_and_heic() -> None:
    for brand, name in ((b"avif", "AVIF"), (b"heic", "HEIF")):
        body = b"\0\0\0\x18ftypmif1\0\0\0\0mif1" + brand + bytes(8)
        assert next(key for key, each in FORMATS.items() if each.recognises(body)) == name
    video = b"\0\0\0\x14ftypisom\0\0\0\0mp42heic"
    assert not any(each.recognises(video) for each in FORMATS.values())


@pytest.mark.parametrize(
    "body", [b"", b"BM", b"BM" + bytes(60), b"RIFF\0\0\0\0WAVE", b"GIF88a", b"\xff\xd8", b"\x89PN"]
)
def test_incomplete_signature_is_not_recognised_as_an_image(body: bytes) -> None:
    assert not is_image(body)


def test_titles_media_types_and_suffixes_are_derived_from_the_registry() -> None:
    assert accepted() == "PNG, JPEG, WebP, BMP or GIF"
    assert accepted(own_files=True) == "PNG, JPEG, WebP, BMP, GIF, TIFF, AVIF or HEIC"
    assert media_types() == ("image/png", "image/jpeg", "image/webp", "image/bmp", "image/gif")
    assert {"image/jpg", "image/x-png"} <= set(media_types(registered=False))
    assert suffixes() == {
        ".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".gif",
        ".tif", ".tiff", ".avif", ".heic", ".heif", ".hif",
    }  # fmt: skip


def test_only_formats_whose_costs_are_known_from_the_header_are_for_uploads() -> None:
    bounded = {name for name, each in FORMATS.items() if each.read_header is not None}
    assert {name for name, each in FORMATS.items() if each.uploads} == bounded
    assert bounded == {"PNG", "JPEG", "WEBP", "BMP", "GIF"}


def read_ppm(body: bytes) -> Header:
    width, height = map(int, body.split()[1:3])
    return Header(width=width, height=height, pixel_bytes=3, decoding_s=0, body=body)


@pytest.mark.parametrize("uploads", [True, False])
def test_new_format_needs_only_one_entry(uploads: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """PPM as an example: it decodes, and the derived values include it."""
    body = encoded(Image.new("RGB", (5, 4), (200, 30, 30)), "PPM")
    with pytest.raises(UnsupportedMediaType, match="body is not a PNG, JPEG, WebP, BMP or GIF im"):
        decode(body, max_pixels=100)
    ppm = ImageFormat(
        title="PPM",
        plugin="PIL.PpmImagePlugin",
        media_types=("image/x-portable-pixmap",),
        suffixes=(".ppm",),
        signatures=(b"P6",),
        read_header=read_ppm if uploads else None,
    )
    monkeypatch.setitem(FORMATS, "PPM", ppm)
    formats.register_decoders()
    decoded = decode(body, max_pixels=100, own_file=True)
    assert decoded.image.getpixel((0, 0)) == (200, 30, 30)
    assert accepted(own_files=True).endswith("HEIC or PPM")
    assert ".ppm" in suffixes()
    assert ("image/x-portable-pixmap" in media_types()) == uploads
    assert is_image(body) == uploads
    if uploads:
        assert decode(body, max_pixels=100).image.tobytes() == decoded.image.tobytes()
    else:
        with pytest.raises(UnsupportedMediaType, match="PPM image, which is not accepted"):
            decode(body, max_pixels=100)
