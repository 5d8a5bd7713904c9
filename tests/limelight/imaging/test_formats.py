"""Registry of image formats, and the values derived from it."""

import io

import pytest
from PIL import Image

from limelight.imaging import formats
from limelight.imaging.formats import (
    FORMATS,
    ImageFormat,
    accepted,
    is_image,
    media_types,
    suffixes,
)


def encoded(name: str) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (5, 4), (200, 30, 30)).save(stream, name)
    return stream.getvalue()


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_is_recognised_by_its_own_entry_only(name: str) -> None:
    body = encoded(name)
    assert [key for key, each in FORMATS.items() if each.recognises(body)] == [name]
    assert is_image(body)


@pytest.mark.parametrize(
    "body", [b"", b"BM", b"BM" + bytes(60), b"RIFF\0\0\0\0WAVE", b"GIF88a", b"\xff\xd8", b"\x89PN"]
)
def test_incomplete_signature_is_not_recognised_as_an_image(body: bytes) -> None:
    assert not is_image(body)


def test_titles_media_types_and_suffixes_are_derived_from_the_registry() -> None:
    assert accepted() == "PNG, JPEG, WebP, BMP or GIF"
    assert media_types() == ("image/png", "image/jpeg", "image/webp", "image/bmp", "image/gif")
    assert {"image/jpg", "image/x-png"} <= set(media_types(registered=False))
    assert suffixes() == {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif"}


def test_new_format_needs_only_one_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    """TIFF as an example: it decodes, and the derived values include it."""
    from limelight.errors import UnsupportedMediaType
    from limelight.imaging.decoding import decode

    body = encoded("TIFF")
    with pytest.raises(UnsupportedMediaType, match="not a PNG, JPEG, WebP, BMP or GIF image"):
        decode(body, max_pixels=100)
    tiff = ImageFormat(
        title="TIFF",
        plugin="TiffImagePlugin",
        media_types=("image/tiff",),
        suffixes=(".tif", ".tiff"),
        signatures=(b"II*\0", b"MM\0*"),
    )
    monkeypatch.setitem(FORMATS, "TIFF", tiff)
    formats.register_decoders()
    assert decode(body, max_pixels=100).image.getpixel((0, 0)) == (200, 30, 30)
    assert accepted().endswith("GIF or TIFF")
    assert "image/tiff" in media_types()
    assert ".tif" in suffixes()
    assert is_image(body)
