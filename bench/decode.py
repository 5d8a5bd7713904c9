"""What the way from an upload's bytes to the network's input costs, in microseconds.

`python -m bench.decode` times the service (`ours`), the same with Pillow reading the file, and two
other decoders on their own, where they are installed: `pip install opencv-python-headless
simplejpeg`. They give pixels only: the service's other steps are not in their figures. Then it
times what `is_quick` lets through, at its limits, and shows what the decoders add to a process.
"""

import importlib
import importlib.util
import io
import statistics
import subprocess
import sys
import timeit
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from limelight.artifact.manifest import ImageRule
from limelight.imaging.decoding import decode_with_pillow
from limelight.imaging.preprocessing import is_quick, prepare, read_upload

MAX_PIXELS = 40_000_000
REPEATS = 15
SECONDS = 0.05  # of a repeat
DIGITS = ImageRule(height=28, width=28, mode="L", fit="ink", invert="light-border", background=255)
CIFAR10 = ImageRule(height=32, width=32, mode="RGB", fit="crop", invert="never", background=255)
DECODERS = ("cv2", "simplejpeg")

_RESIDENT = """
import importlib, sys, PIL.Image, numpy
def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1])
before = resident()
importlib.import_module(sys.argv[1])
print(resident() - before)
"""


def main() -> None:
    """Measure and print."""
    cases = {
        "28x28 grey PNG": (_encode(_digit(28), "PNG"), DIGITS),
        "32x32 RGB PNG": (_encode(_photo(32), "PNG"), CIFAR10),
        "512x512 JPEG": (_encode(_photo(512), "JPEG", quality=90), CIFAR10),
        "280x280 RGBA PNG": (_encode(_digit(280).convert("RGBA"), "PNG"), DIGITS),
        "32x32 JPEG": (_encode(_photo(32), "JPEG", quality=90), CIFAR10),
    }
    print(f"medians of {REPEATS} repeats (least to most), microseconds")
    for name, (body, rule) in cases.items():
        print(f"{name}, {len(body)} bytes, for {rule.width}x{rule.height}")
        for way, times in _time(_ways(body, rule)).items():
            print(f"  {way:12} {times}")

    print("uploads at the limits of what counts as quick")
    quick = _quick_ones()
    for name, times in _time({key: _ours(quick[key], CIFAR10) for key in quick}).items():
        print(f"  {name:18} {len(quick[name]):5} bytes {times}")

    print("what an import adds to a process, MB")
    for module in filter(importlib.util.find_spec, DECODERS):
        command = [sys.executable, "-c", _RESIDENT, module]
        pages = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        print(f"  {module:12} {int(pages) * 4096 / 1e6:.1f}")


def _ours(body: bytes, rule: ImageRule) -> Callable[[], object]:
    return lambda: read_upload(body, rule, max_pixels=MAX_PIXELS)


def _ways(body: bytes, rule: ImageRule) -> dict[str, Callable[[], object]]:
    def by_pillow() -> object:
        return prepare(decode_with_pillow(body, max_pixels=MAX_PIXELS, sketch_for=rule), rule)

    ways = {"ours": _ours(body, rule), "Pillow": by_pillow}
    is_large_jpeg = body.startswith(b"\xff\xd8") and len(body) > 10_000
    if importlib.util.find_spec("cv2"):
        cv2: Any = importlib.import_module("cv2")
        # An eighth is what the service's rule comes to for the large picture.
        how = cv2.IMREAD_REDUCED_COLOR_8 if is_large_jpeg else cv2.IMREAD_UNCHANGED
        encoded = np.frombuffer(body, np.uint8)
        ways["cv2"] = lambda: cv2.imdecode(encoded, how)
    if body.startswith(b"\xff\xd8") and importlib.util.find_spec("simplejpeg"):
        simplejpeg: Any = importlib.import_module("simplejpeg")
        least = 64 if is_large_jpeg else 0
        ways["simplejpeg"] = lambda: simplejpeg.decode_jpeg(body, min_width=least, min_height=least)
    return ways


def _quick_ones() -> dict[str, bytes]:
    """Of up to 64 by 64 pixels and 8 kB: noise, which compresses least, where that fits."""
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 4), np.uint8)
    palette = Image.fromarray(noise[:, :, :3]).quantize(200)
    bodies = {
        "grey PNG": _encode(Image.fromarray(noise[:, :, 0]), "PNG"),
        "RGBA PNG, 40x48": _encode(Image.fromarray(noise[:48, :40]), "PNG"),
        "RGBA PNG, smooth": _encode(_photo(64).convert("RGBA"), "PNG"),
        "palette PNG": _encode(palette, "PNG"),
        "RGB JPEG": _encode(Image.fromarray(noise[:, :, :3]), "JPEG", quality=85),
        "progressive JPEG": _encode(_photo(64), "JPEG", quality=90, progressive=True),
    }
    return {name: body for name, body in bodies.items() if is_quick(body, CIFAR10)}


def _digit(size: int) -> Image.Image:
    """White paper with dark strokes of a brush, which compresses as a digit does."""
    y, x = np.mgrid[0:size, 0:size] / size
    distance = np.abs(np.hypot(x - 0.5, (y - 0.5) * 0.8) - 0.22)
    return Image.fromarray((255 * np.clip(distance * 20 - 0.5, 0, 1)).astype(np.uint8))


def _photo(size: int) -> Image.Image:
    """Smooth shapes with a camera's noise."""
    rng = np.random.default_rng(1)
    coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8))
    smooth = np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC), np.float64)
    return Image.fromarray((smooth + rng.normal(0, 4, smooth.shape)).clip(0, 255).astype(np.uint8))


def _encode(image: Image.Image, image_format: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, image_format, **options)
    return stream.getvalue()


def _time(calls: dict[str, Callable[[], object]]) -> dict[str, str]:
    """In turns, so that whatever else the machine does falls on all of them."""
    timers = {name: timeit.Timer(call) for name, call in calls.items()}
    numbers = {
        name: max(1, int(SECONDS / min(timer.repeat(3, 3)) * 3)) for name, timer in timers.items()
    }
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(REPEATS):
        for name, timer in timers.items():
            times[name].append(timer.timeit(numbers[name]) / numbers[name] * 1e6)
    return {
        name: f"{statistics.median(taken):8.1f} ({min(taken):.1f} to {max(taken):.1f})"
        for name, taken in times.items()
    }


if __name__ == "__main__":
    main()
