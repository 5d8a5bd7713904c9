"""Header of every format: the size, the cost of decoding, and bounds for crafted files."""

import contextlib
import io
import json
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from limelight.errors import ImageTooComplex, ImageTooLarge, LimelightError, UndecodableImage
from limelight.imaging import reduced_webp
from limelight.imaging.decoding import decode
from limelight.imaging.headers.header import MAX_DECODING_S, MAX_OWN_DECODING_S, MAX_SIDE
from limelight.imaging.headers.inspection import inspect
from tests.hostile_images import (
    PNG,
    chunk,
    cluttered,
    crafted,
    large,
    overlapping_exif,
    png,
    saved,
    scans,
)
from tests.serving_kit import REPOSITORY

MAX_PIXELS = 40_000_000
LARGE = dict(large((70, 50)))
CRAFTED, CLUTTERED = dict(crafted()), dict(cluttered())
# Every crafted file is rejected within this time; Pillow alone takes seconds, or minutes.
REJECTED_S = 0.5


@pytest.mark.parametrize("name", LARGE)
def test_header_has_the_size_that_pillow_decodes(name: str) -> None:
    body = LARGE[name]()
    header = inspect(body, max_pixels=MAX_PIXELS)
    with Image.open(io.BytesIO(body)) as image:
        assert (header.width, header.height) == image.size
    assert decode(body, max_pixels=MAX_PIXELS).size in ((70, 50), (50, 70))


@pytest.mark.parametrize("name", CRAFTED)
def test_crafted_file_is_rejected_before_it_is_decoded(name: str) -> None:
    body = CRAFTED[name]()
    started = time.process_time()
    with pytest.raises((ImageTooComplex, ImageTooLarge)):
        decode(body, max_pixels=MAX_PIXELS)
    assert time.process_time() - started < REJECTED_S


@pytest.mark.parametrize("name", CLUTTERED)
def test_metadata_of_any_kind_takes_little_time(name: str) -> None:
    body = CLUTTERED[name]()
    started = time.process_time()
    assert decode(body, max_pixels=MAX_PIXELS).full_size == (9, 7)
    assert time.process_time() - started < REJECTED_S


@pytest.mark.parametrize("name", LARGE)
def test_truncated_file_is_never_accepted_with_another_size(name: str) -> None:
    body = LARGE[name]()
    for length in range(0, min(len(body), 400)):
        try:
            header = inspect(body[:length], max_pixels=MAX_PIXELS)
        except LimelightError:
            continue
        assert (header.width, header.height) == (70, 50)


@pytest.mark.parametrize("name", LARGE)
@given(data=st.data())
@settings(max_examples=100, deadline=None)
def test_changed_bytes_never_cause_another_error(name: str, data: st.DataObject) -> None:
    body = bytearray(LARGE[name]())
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, min(len(body), 300) - 1))] = data.draw(st.integers(0, 255))
    for length in (len(body), data.draw(st.integers(0, len(body)))):
        with contextlib.suppress(LimelightError):
            inspect(bytes(body[:length]), max_pixels=MAX_PIXELS)


@pytest.mark.parametrize(
    ("size", "problem"), [((MAX_SIDE + 1, 1), "65535"), ((6400, 6400), "more than 40000000")]
)
def test_too_many_pixels_and_too_long_sides_are_rejected(
    size: tuple[int, int], problem: str
) -> None:
    for body in (png(size), png(size, colour=3)):
        with pytest.raises(ImageTooLarge, match=problem):
            decode(body, max_pixels=MAX_PIXELS)


def test_progressive_jpeg_of_usual_scans_is_accepted() -> None:
    header = inspect(scans((6320, 6320), 10), max_pixels=MAX_PIXELS)
    assert header.decoding_s < MAX_DECODING_S
    blocks = (6320 // 8) ** 2
    assert header.working_bytes >= blocks * 64 * 2


@pytest.mark.parametrize("marker", [0xC3, 0xC9, 0xCA])
def test_jpeg_of_other_processes_is_rejected(marker: int) -> None:
    body = bytearray(saved(Image.new("RGB", (9, 9)), "JPEG"))
    body[body.index(b"\xff\xc0") + 1] = marker
    with pytest.raises(UndecodableImage):
        decode(bytes(body), max_pixels=MAX_PIXELS)


def test_jpeg_is_decoded_without_pillows_file_parser(monkeypatch: pytest.MonkeyPatch) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.linear_gradient("L").resize((90, 70)).convert("RGB")
    body = saved(image, "JPEG", exif=exif, comment=b"x" * 999, icc_profile=bytes(99))
    with Image.open(io.BytesIO(body)) as opened:
        expected = opened.tobytes()

    def opened_again(*arguments: object, **options: object) -> Image.Image:
        raise AssertionError("opened")

    monkeypatch.setattr(Image, "open", opened_again)
    decoded = decode(body, max_pixels=MAX_PIXELS)
    assert decoded.source.tobytes() == expected
    assert decoded.size == (70, 90)


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "WEBP"])
def test_overlapping_exif_entries_are_not_copied(image_format: str) -> None:
    exif = overlapping_exif(100, 1_000_000)
    if image_format == "JPEG":
        segments = [exif[at : at + 60_000] for at in range(0, len(exif), 60_000)]
        marked = b"".join(
            b"\xff\xe1" + (len(part) + 8).to_bytes(2) + b"Exif\0\0" + part for part in segments
        )
        body = saved(Image.new("RGB", (9, 9)), "JPEG")
        body = body[:2] + marked + body[2:]
    elif image_format == "PNG":
        body = png((9, 9), extra=chunk(b"eXIf", exif))
    else:
        body = saved(Image.new("RGB", (9, 9)), "WEBP", exif=exif)
    tracemalloc.start()
    try:
        decode(body, max_pixels=MAX_PIXELS)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 6 * len(exif)


def test_animated_png_is_decoded_as_its_default_image() -> None:
    size = (9, 7)
    still = png(size)
    animated = dict(large(size))["png animated"]()
    header = inspect(animated, max_pixels=MAX_PIXELS)
    assert b"acTL" not in header.body
    assert (
        decode(animated, max_pixels=MAX_PIXELS).image.tobytes()
        == decode(still, max_pixels=MAX_PIXELS).image.tobytes()
    )


def test_format_of_a_damaged_header_is_named_in_the_error() -> None:
    with pytest.raises(UndecodableImage, match="header"):
        inspect(PNG + bytes(40), max_pixels=MAX_PIXELS)


# Decodes each file that arrives on standard input, and prints what that took.
_MEASURE = """
import json, sys, time
from pathlib import Path
from limelight.imaging.image_rule import ImageRule
from limelight.image_source import EncodedImage
from limelight.imaging.decoding import decode
from service.system.malloc import limit_memory_growth

def memory(field):
    line = next(line for line in open("/proc/self/status") if line.startswith(field))
    return int(line.split()[1]) * 1024

limit_memory_growth()
crop = ImageRule(height=32, width=32, mode="RGB", fit="crop", invert="never", background=0)
ink = ImageRule(height=28, width=28, mode="L", fit="ink", invert="light-border", background=255)
for line in sys.stdin:
    path, with_picture = json.loads(line)
    rule = ink if with_picture else crop
    source = EncodedImage(Path(path).read_bytes(), 10**8, 1_000_000)
    Path("/proc/self/clear_refs").write_text("5")
    before, started = memory("VmRSS"), time.process_time()
    try:
        estimate = source.decoded_bytes(rule, with_picture=with_picture)
        source.read(rule, with_picture=with_picture)
    except Exception as error:
        print(json.dumps({"error": repr(error)}), flush=True)
        continue
    seconds = time.process_time() - started
    result = {"peak": memory("VmHWM") - before, "seconds": seconds, "estimate": estimate}
    print(json.dumps(result | {"decoding_s": source.header().decoding_s}), flush=True)
"""

Measure = Callable[[bytes, bool], dict[str, float]]
# Memory that a measurement gains or loses for other reasons.
SLACK_BYTES = 1_500_000
SIZE = 1800, 1600
MEASURED = dict(large(SIZE))


@pytest.fixture(scope="module")
def measure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Measure]:
    folder = tmp_path_factory.mktemp("measured")
    process = subprocess.Popen(
        [sys.executable, "-c", _MEASURE],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    def measured(body: bytes, with_picture: bool) -> dict[str, float]:
        path = folder / "image"
        path.write_bytes(body)
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps([str(path), with_picture]) + "\n")
        process.stdin.flush()
        answer: dict[str, float] = json.loads(process.stdout.readline())
        return answer

    yield measured
    process.communicate()


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of a process's memory is Linux's")
@pytest.mark.parametrize("with_picture", [False, True], ids=["input", "picture"])
@pytest.mark.parametrize("name", MEASURED)
def test_decoding_takes_no_more_memory_than_estimated(
    name: str, with_picture: bool, measure: Measure
) -> None:
    body = MEASURED[name]()
    found = measure(body, with_picture)
    assert "error" not in found, found
    assert found["peak"] <= found["estimate"] + SLACK_BYTES
    # Scaled to 40 million pixels, an image that is accepted takes at most 200 MB.
    pixels = SIZE[0] * SIZE[1]
    if found["estimate"] * 40e6 / pixels <= 200e6:
        assert found["peak"] * 40e6 / pixels <= 200e6 + SLACK_BYTES * 40e6 / pixels
    assert found["seconds"] < 2 * pixels / 40e6 + 0.5


def test_webp_is_decoded_as_by_pillow_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    bodies = {name: make() for name, make in LARGE.items() if name.startswith("webp")}
    assert len(bodies) == 4
    own = {name: decode(body, max_pixels=MAX_PIXELS) for name, body in bodies.items()}
    monkeypatch.setattr(reduced_webp, "is_available", lambda: False)
    for name, body in bodies.items():
        header = inspect(body, max_pixels=MAX_PIXELS)
        assert header.pixel_bytes == 20
        image = decode(body, max_pixels=MAX_PIXELS).image
        assert (image.mode, image.tobytes()) == (own[name].image.mode, own[name].image.tobytes())


def test_own_file_may_take_longer_to_decode_than_an_upload() -> None:
    # As of a camera of 45 megapixels, with 25 MB of nothing at the end.
    body = saved(Image.new("RGB", (8256, 5504)), "JPEG") + bytes(25_000_000)
    with pytest.raises(ImageTooComplex, match="would take too long"):
        inspect(body, max_pixels=200_000_000)
    header = inspect(body, max_pixels=200_000_000, own_file=True)
    assert MAX_DECODING_S < header.decoding_s < MAX_OWN_DECODING_S
    with pytest.raises(ImageTooComplex, match="would take too long"):
        inspect(scans((6320, 6320), 5000), max_pixels=200_000_000, own_file=True)
