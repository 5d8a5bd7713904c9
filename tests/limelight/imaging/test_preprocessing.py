import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from limelight.errors import ImageTooLarge, UndecodableImage, UnsupportedMediaType
from limelight.imaging.decoding import decode
from limelight.imaging.image_rule import ImageRule
from limelight.imaging.preprocessing import View, flatten, prepare, read_upload
from tests.serving_kit import encode

CROP = ImageRule(height=8, width=8, mode="RGB", fit="crop", invert="never", background=0)
INK = ImageRule(height=28, width=28, mode="L", fit="ink", invert="light-border", background=255)
MANY = 10**8


def noise(size: tuple[int, int] = (40, 30), mode: str = "RGB") -> Image.Image:
    rng = np.random.default_rng(7)
    return Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), np.uint8)).convert(mode)


def draw_bar(size: tuple[int, int], box: tuple[int, int, int, int]) -> Image.Image:
    """Draw a black bar on white."""
    image = Image.new("L", size, 255)
    image.paste(0, box)
    return image


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "WEBP", "BMP", "GIF"])
def test_each_accepted_format_decodes(image_format: str) -> None:
    image = decode(encode(noise(), image_format), max_pixels=MANY).image
    assert image.size == (40, 30)
    assert image.mode == "RGB"


@pytest.mark.parametrize("image_format", ["PPM", "ICO", "PCX", "TGA"])
def test_other_formats_are_rejected(image_format: str) -> None:
    with pytest.raises(UnsupportedMediaType, match="not a PNG, JPEG, WebP, BMP or GIF"):
        decode(encode(noise(), image_format), max_pixels=MANY)


@pytest.mark.parametrize("body", [b"hello", b"\0" * 64, b"<svg/>", b"%PDF-1.7"])
def test_bytes_that_are_not_an_image_are_rejected(body: bytes) -> None:
    with pytest.raises(UnsupportedMediaType):
        decode(body, max_pixels=MANY)


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "WEBP", "BMP", "GIF"])
@pytest.mark.parametrize("share", [0.02, 0.1, 0.5, 0.9])
def test_a_truncated_image_is_undecodable_wherever_it_is_cut(
    image_format: str, share: float
) -> None:
    body = encode(noise((200, 150)), image_format)
    with pytest.raises(UndecodableImage):
        decode(body[: int(len(body) * share)], max_pixels=MANY)


def test_random_damage_raises_only_documented_errors() -> None:
    rng = np.random.default_rng(1)
    for image_format in ("PNG", "JPEG", "WEBP", "BMP", "GIF"):
        body = encode(noise(), image_format)
        for _ in range(60):
            damaged = bytearray(body)
            for place in rng.integers(0, len(body), 8):
                damaged[place] = rng.integers(0, 256)
            try:
                image = decode(bytes(damaged), max_pixels=10**6).image
            except (UndecodableImage, UnsupportedMediaType, ImageTooLarge):
                continue
            assert image.mode in ("L", "LA", "RGB", "RGBA")


def test_the_pixel_limit_is_read_from_the_header_before_anything_is_decoded() -> None:
    def chunk(name: bytes, content: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(name + content))
        return struct.pack(">I", len(content)) + name + content + checksum

    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 0, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"")
    with pytest.raises(ImageTooLarge, match="100000 x 100000"):
        decode(bomb, max_pixels=MANY)


def test_the_pixel_limit_itself_is_allowed() -> None:
    body = encode(noise())
    assert decode(body, max_pixels=1200).full_size == (40, 30)
    with pytest.raises(ImageTooLarge):
        decode(body, max_pixels=1199)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int) -> None:
    upright = np.zeros((30, 40, 3), np.uint8)
    upright[:15, :20] = 255  # the upper left quarter is white
    undo: Any = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
        8: lambda a: np.rot90(a, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(undo(upright)))
    image = decode(encode(stored, "PNG", exif=exif), max_pixels=MANY).image
    assert image.size == (40, 30)
    np.testing.assert_array_equal(np.asarray(image), upright)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_damaged_exif_does_not_reject_the_image() -> None:
    body = encode(noise(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f")
    assert decode(body, max_pixels=MANY).full_size == (40, 30)


def test_an_animation_gives_its_first_frame() -> None:
    stream = io.BytesIO()
    frames = [Image.new("RGB", (9, 9), colour) for colour in ("red", "blue")]
    frames[0].save(stream, "GIF", save_all=True, append_images=frames[1:])
    image = decode(stream.getvalue(), max_pixels=MANY).image.convert("RGB")
    assert image.getpixel((4, 4)) == (255, 0, 0)


def test_16_bit_levels_are_scaled_to_8_bits() -> None:
    levels = np.array([[0, 257, 32896, 65535]], np.uint16)
    image = decode(encode(Image.fromarray(levels)), max_pixels=MANY).image
    assert image.mode == "L"
    assert np.asarray(image).tolist() == [[0, 1, 128, 255]]


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "CMYK", "RGBA", "LA"])
def test_every_mode_is_converted_to_the_rules_mode(mode: str) -> None:
    grey = Image.new("L", (20, 20), 255)
    source = grey.convert("RGBA").convert("LA") if mode == "LA" else grey.convert(mode)
    body = encode(source, "JPEG" if mode == "CMYK" else "PNG")
    for rule in (CROP, INK):
        pixels, _ = prepare(decode(body, max_pixels=MANY).image, rule)
        assert pixels.shape == (rule.height, rule.width, rule.channels)
        assert pixels.dtype == np.uint8
    assert prepare(decode(body, max_pixels=MANY).image, CROP)[0].min() >= 254


def test_transparent_pixels_are_blended_with_the_rules_background() -> None:
    image = Image.new("RGBA", (8, 8), (200, 100, 0, 0))
    image.paste((200, 100, 0, 255), (0, 0, 4, 8))
    rule = CROP.model_copy(update={"background": 77})
    pixels, _ = prepare(decode(encode(image), max_pixels=MANY).image, rule)
    assert pixels[0, 0].tolist() == [200, 100, 0]
    assert pixels[0, 7].tolist() == [77, 77, 77]


def test_a_transparent_palette_colour_counts_as_alpha() -> None:
    image = Image.new("P", (8, 8), 1)
    image.putpalette([10, 20, 30, 200, 100, 50])
    body = encode(image, "PNG", transparency=1)
    assert prepare(decode(body, max_pixels=MANY).image, CROP)[0].max() == 0


def test_upload_of_the_inputs_size_is_not_resized() -> None:
    image = noise((8, 8))
    pixels, view = prepare(image, CROP)
    np.testing.assert_array_equal(pixels, np.asarray(image))
    assert view == View(0, 0, 8, 8)
    digit = Image.fromarray(np.random.default_rng(0).integers(0, 99, (28, 28), np.uint8))
    np.testing.assert_array_equal(prepare(digit, INK)[0][:, :, 0], np.asarray(digit))


def test_crop_takes_the_largest_centred_rectangle() -> None:
    image = Image.new("RGB", (32, 16), "blue")
    image.paste("red", (8, 0, 24, 16))
    pixels, view = prepare(image, CROP)
    assert view == View(8, 0, 16, 16)
    assert (pixels[:, 1:-1] == [255, 0, 0]).all()  # the filter reaches over the edges


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1), (3, 2), (7, 8)])
@pytest.mark.parametrize("rule", [CROP, INK], ids=["crop", "ink"])
def test_uploads_of_extreme_proportions_are_prepared(
    size: tuple[int, int], rule: ImageRule
) -> None:
    pixels, view = prepare(noise(size), rule)
    assert pixels.shape == (rule.height, rule.width, rule.channels)
    assert view.width > 0
    assert view.height > 0


def test_view_of_a_jpeg_decoded_at_reduced_size_is_in_upload_pixels() -> None:
    image = Image.linear_gradient("L").resize((1000, 600)).convert("RGB")
    body = encode(image, "JPEG", quality=95)
    sketch = decode(body, max_pixels=MANY, sketch_for=CROP)
    assert sketch.image.width < 1000
    assert sketch.full_size == (1000, 600)
    pixels, view = prepare(sketch.image, CROP, full_size=sketch.full_size)
    exact_pixels, exact_view = prepare(decode(body, max_pixels=MANY).image, CROP)
    assert exact_view == View(200, 0, 600, 600)
    assert [view.left, view.top, view.width, view.height] == pytest.approx([200, 0, 600, 600])
    assert np.abs(pixels.astype(int) - exact_pixels).max() <= 3


def test_a_dark_digit_on_light_paper_is_inverted_and_a_light_one_is_not() -> None:
    dark = draw_bar((28, 28), (12, 4, 16, 24))
    light = dark.point([255 - level for level in range(256)])
    np.testing.assert_array_equal(prepare(dark, INK)[0], prepare(light, INK)[0])
    assert prepare(dark, INK)[0].max() == 255
    assert prepare(dark, INK)[0][0, 0] == 0


def test_ink_is_laid_out_as_in_mnist() -> None:
    """The longest side of a bar is 20 of 28 pixels, and its centre is that of pixel 14."""
    pixels, _ = prepare(draw_bar((300, 200), (200, 40, 220, 140)), INK)
    rows, columns = np.nonzero(pixels[:, :, 0] > 127)
    assert rows.max() - rows.min() + 1 == 20
    assert columns.max() - columns.min() + 1 == 4
    mass = pixels[:, :, 0] / pixels.sum()
    assert mass.sum(1) @ np.arange(28) == pytest.approx(14, abs=0.51)
    assert mass.sum(0) @ np.arange(28) == pytest.approx(14, abs=0.51)


def test_view_of_ink_maps_the_input_back_to_the_upload() -> None:
    image = draw_bar((300, 200), (200, 40, 220, 140))
    pixels, view = prepare(image, INK)
    rows, columns = np.nonzero(pixels[:, :, 0] > 127)
    left = view.left + columns.min() / 28 * view.width
    right = view.left + (columns.max() + 1) / 28 * view.width
    top = view.top + rows.min() / 28 * view.height
    bottom = view.top + (rows.max() + 1) / 28 * view.height
    assert [left, top, right, bottom] == pytest.approx([200, 40, 220, 140], abs=3)
    assert view.left + view.width > 250  # an input pixel covers 5 upload pixels


def test_prepared_ink_does_not_depend_on_size_position_or_contrast() -> None:
    small = prepare(draw_bar((100, 100), (10, 10, 20, 60)), INK)[0].astype(int)
    large = prepare(draw_bar((900, 700), (500, 100, 600, 600)), INK)[0].astype(int)
    faint = draw_bar((900, 700), (500, 100, 600, 600)).point([180 + v // 4 for v in range(256)])
    assert np.abs(small - large).max() <= 40
    assert np.abs(prepare(faint, INK)[0].astype(int) - large).max() <= 8


@pytest.mark.parametrize("level", [0, 127, 128, 255])
def test_a_blank_image_stays_blank(level: int) -> None:
    pixels, view = prepare(Image.new("L", (100, 60), level), INK)
    assert np.ptp(pixels) == 0
    assert view == View(20, 0, 60, 60)


def test_thin_line_in_a_very_tall_upload_is_prepared() -> None:
    image = Image.new("L", (2, 2_000_000), 255)
    image.paste(0, (0, 100, 1, 1_999_900))
    pixels, _ = prepare(image, INK)
    assert pixels.shape == (28, 28, 1)


def test_an_opaque_alpha_channel_changes_nothing() -> None:
    image = noise((20, 10))
    opaque = image.convert("RGBA")
    np.testing.assert_array_equal(np.asarray(flatten(opaque, 99)), np.asarray(image))
    opaque.putpixel((3, 4), (0, 0, 0, 0))
    assert flatten(opaque, 99).getpixel((3, 4)) == (99, 99, 99)


def test_size_of_an_upload_is_that_of_the_upright_image() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    body = encode(noise((1000, 600)), "JPEG", exif=exif)
    upload = read_upload(body, CROP, max_pixels=MANY)
    assert (upload.width, upload.height) == (600, 1000)
    assert upload.pixels_hwc.shape == (8, 8, 3)
    view = upload.view
    assert [view.left, view.top, view.width, view.height] == pytest.approx([0, 200, 600, 600])
