"""Training on many large photos of one's own: its memory, and its speed beside torchvision.

`python -m bench.own_images memory --images 50000` generates photos of 12 megapixels, and trains,
exports and reports with the command line; it prints the peak memory of each stage. `python -m
bench.own_images speed` compares the images per second that reach a network with torchvision's
ImageFolder and torch's DataLoader, with the same augmentation and as many processes.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path

import numpy as np
import psutil  # type: ignore[import-untyped]
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from bench.common.report import Report
from bench.common.spread import Spread
from bench.common.turns import rotated
from pipeline.data.reading_options import Reading
from pipeline.data.registry import load_dataset
from pipeline.training.augmentation.augmenter import Augmenter
from pipeline.training.recipe import Recipe
from pipeline.training.resident_images import ResidentImages

WIDTH, HEIGHT = 4000, 3000
CLASSES = {"lake": (40, 90, 160), "meadow": (60, 140, 50), "street": (130, 120, 115)}
MOST_BYTES = 4 << 30
_MOTIFS = 8
_SIDE, _BATCH, _PADDING = 64, 64, 8
_WORKERS = 2
_SECONDS_BETWEEN_LOOKS = 0.5


def write_photos(folder: Path, images: int) -> None:
    """Write `images` JPEG files of 12 megapixels, in a sub-folder for each class.

    There are a few motifs for each class. A comment makes every file another one, so that none is
    taken for a copy.
    """
    rng = np.random.default_rng(0)
    motifs = {
        name: [_motif(rng, colour) for _ in range(_MOTIFS)] for name, colour in CLASSES.items()
    }
    for name in CLASSES:
        (folder / name).mkdir(parents=True, exist_ok=True)
    names = list(CLASSES)
    for number in range(images):
        name = names[number % len(names)]
        motif = motifs[name][number // len(names) % _MOTIFS]
        comment = f"photo {number}".encode()
        segment = b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment
        (folder / name / f"{number:06}.jpg").write_bytes(motif[:2] + segment + motif[2:])


def _motif(rng: np.random.Generator, colour: tuple[int, int, int]) -> bytes:
    """Draw a photo with detail at several scales, as a JPEG file."""
    levels = np.zeros((HEIGHT, WIDTH, 3), np.float32) + np.array(colour, np.float32)
    for side, contrast in ((6, 30), (40, 15), (300, 8)):
        coarse = rng.normal(0, contrast, (side, side, 3)).clip(-100, 100) + 128
        field = Image.fromarray(coarse.astype(np.uint8)).resize(
            (WIDTH, HEIGHT), Image.Resampling.BICUBIC
        )
        levels += np.asarray(field, np.float32) - 128
    file = BytesIO()
    Image.fromarray(levels.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=80)
    return file.getvalue()


def peak_bytes(command: list[str], environment: dict[str, str]) -> tuple[int, float, str]:
    """Run a command: the peak of its processes' memory, its seconds, and what it printed.

    Memory is the proportional set size of the process and all below it.
    """
    started, peak = time.perf_counter(), 0
    with tempfile.TemporaryFile("w+") as printed:
        process = psutil.Popen(command, env=environment, stdout=printed)
        while process.poll() is None:
            with suppress(psutil.NoSuchProcess):
                family = [process, *process.children(recursive=True)]
                peak = max(peak, sum(_proportional_bytes(each.pid) for each in family))
            time.sleep(_SECONDS_BETWEEN_LOOKS)
        printed.seek(0)
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, command)
        return peak, time.perf_counter() - started, printed.read().strip()


def _proportional_bytes(pid: int) -> int:
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0


def measure_memory(report: Report, folder: Path, epochs: int) -> None:
    """Train, export and report with the command line."""
    limelight = [sys.executable, "-m", "pipeline"]
    rows, run = [], folder / "run"
    with _own_cache(folder) as environment:
        stages = {
            "decode and train": [
                "train", str(folder / "photos"), "--out", str(run), "--epochs", str(epochs),
                "--no-report",
            ],
            "export": ["export", str(run), "--to", str(folder / "artifacts")],
            "report": ["report", str(run), "--no-tta"],
        }  # fmt: skip
        for stage, arguments in stages.items():
            report.say(f"{stage} ...")
            peak, seconds, _ = peak_bytes([*limelight, *arguments], environment)
            report.measurements[stage] = {"peak_bytes": peak, "seconds": seconds}
            rows.append((stage, f"{peak / (1 << 30):.2f}", f"{seconds / 60:.1f}"))
            report.judge(f"{stage} in 4 GiB", f"{peak / (1 << 30):.2f} GiB", peak < MOST_BYTES)
    report.add_table("Peak memory", ("stage", "GiB", "minutes"), rows)


@contextmanager
def _own_cache(folder: Path) -> Iterator[dict[str, str]]:
    """Decode into an image cache of its own."""
    cache = folder / "cache"
    shutil.rmtree(cache, ignore_errors=True)
    cache.mkdir(parents=True)
    before = os.environ.get("XDG_CACHE_HOME")
    os.environ["XDG_CACHE_HOME"] = str(cache)
    try:
        yield dict(os.environ)
    finally:
        if before is None:
            del os.environ["XDG_CACHE_HOME"]
        else:
            os.environ["XDG_CACHE_HOME"] = before


def our_epochs(folder: Path) -> list[float]:
    """Measure two epochs of augmented batches, the first with decoding: images per second each."""
    recipe = Recipe.load("folder")
    rates = []
    with _own_cache(folder):
        started, rng = time.perf_counter(), torch.Generator().manual_seed(0)
        dataset = load_dataset(
            str(folder / "photos"), image_size=_SIDE, reading=Reading(workers=_WORKERS)
        )
        images = ResidentImages(dataset.train.images, torch.device("cpu"))
        paint = torch.zeros(3, dtype=torch.uint8)
        augmenter = Augmenter(images, recipe.augmentation, rng, paint=paint)
        # All were decoded, and a fifth of them is for the test.
        counts = [len(dataset.train) + len(dataset.test), len(images)]
        for epoch, count in enumerate(counts):
            for indices in torch.split(torch.randperm(len(images), generator=rng), _BATCH):
                augmenter.draw(indices, epoch, rng)
            rates.append(count / (time.perf_counter() - started))
            started = time.perf_counter()
    return rates


def torchvision_epoch(folder: Path) -> float:
    """Measure an epoch of torchvision's ImageFolder in torch's DataLoader: images per second."""
    augmentation = v2.Compose(
        [
            v2.Resize(_SIDE),
            v2.CenterCrop(_SIDE),
            v2.RandomCrop(_SIDE, padding=_PADDING, padding_mode="reflect"),
            v2.RandomHorizontalFlip(),
            v2.PILToTensor(),
        ]
    )
    started = time.perf_counter()
    photos = ImageFolder(folder / "photos", augmentation)
    loader = DataLoader(photos, batch_size=_BATCH, shuffle=True, num_workers=_WORKERS)
    count = sum(len(labels) for _, labels in loader)
    return count / (time.perf_counter() - started)


def measure_speed(report: Report, folder: Path, repeats: int) -> None:
    """Measure both in turns."""
    first, later, theirs = [], [], []
    for repeat in range(repeats):
        for way in rotated(["ours", "torchvision"], repeat):
            if way == "ours":
                rates = our_epochs(folder)
                first.append(rates[0])
                later.append(rates[1])
            else:
                theirs.append(torchvision_epoch(folder))
        report.say(f"repeat {repeat + 1}: {first[-1]:.0f}, {later[-1]:.0f}; {theirs[-1]:.0f}")
    rows = [
        (name, Spread.of(rates).shown(), Spread.of(_ratios(rates, theirs)).shown())
        for name, rates in (
            ("Limelight, first epoch, which decodes", first),
            ("Limelight, every later epoch", later),
            ("torchvision's ImageFolder and DataLoader, every epoch", theirs),
        )
    ]
    report.add_table("Images per second", ("", "images/s", "× torchvision"), rows)
    for name, rates in (("first", first), ("later", later)):
        ratio = Spread.of(_ratios(rates, theirs))
        report.judge(f"{name} epoch as fast as torchvision", ratio.shown(), ratio.median >= 1)


def _ratios(rates: list[float], others: list[float]) -> list[float]:
    return [rate / other for rate, other in zip(rates, others, strict=True)]


def main() -> int:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["memory", "speed"])
    parser.add_argument("--images", type=int, default=600)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path("build/own-images"))
    parser.add_argument("--to", type=Path, default=Path("build"))
    options = parser.parse_args()
    folder = options.folder / f"{options.images}"
    if not (folder / "photos").is_dir():
        write_photos(folder / "photos", options.images)
    settings = {"images": options.images, "pixels": WIDTH * HEIGHT, "workers": _WORKERS}
    report = Report(f"own-images-{options.what}", settings)
    if options.what == "memory":
        shutil.rmtree(folder / "run", ignore_errors=True)
        measure_memory(report, folder, options.epochs)
    else:
        measure_speed(report, folder, options.repeats)
    return report.finish(options.to)


if __name__ == "__main__":
    sys.exit(main())
