"""Packs of what an isolated machine needs for the parts of `python -m bench.gpu`."""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from bench.gpu.numbered_parts import PartsError, read_parts, write_parts
from bench.gpu.wheels import NEEDED, WheelsError, download, install, missing_packages
from pipeline.errors import PipelineError

WORK = ("check", "train", "teach", "digits", "serve", "parity")
_DATA = {"train": ("cifar10",), "teach": ("cifar10",), "digits": ("mnist",)}
_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def parser() -> argparse.ArgumentParser:
    """The two command lines."""
    made = argparse.ArgumentParser(prog="python -m bench.gpu")
    commands = made.add_subparsers(dest="command", required=True)
    pack = commands.add_parser("pack", help="data sets and wheels into numbered parts")
    pack.add_argument("--to", type=Path, required=True, metavar="DIR")
    pack.add_argument("--part-size", type=_bytes, default="25M", metavar="SIZE", help="25M: MiB")
    what = f"work to pack for: {', '.join(WORK)}; digits is the part of `teach` that needs MNIST"
    pack.add_argument("--for", dest="work", nargs="+", choices=WORK, default=WORK, help=what)
    pack.add_argument("--python", default="3.12", metavar="VERSION", help="of that machine")
    pack.add_argument("--wheels", type=Path, metavar="DIR", help="take these, fetch none")
    unpack = commands.add_parser("unpack", help="what is complete in the parts that are there")
    unpack.add_argument("parts", type=Path, metavar="DIR")
    unpack.add_argument("--to", type=Path, required=True, metavar="DIR")
    return made


def main(given: Sequence[str]) -> int:
    """Pack or unpack; 1 if that cannot be done."""
    arguments = parser().parse_args(given)
    try:
        if arguments.command == "pack":
            pack(arguments)
        else:
            unpack(arguments.parts, arguments.to)
    except (PartsError, WheelsError, PipelineError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def pack(arguments: argparse.Namespace) -> None:
    """Write the parts, and print what is in them and how large each is."""
    # What unpacks may lack what these need.
    from bench.gpu.image_archive import write_archive
    from pipeline.data.registry import load_cached

    with tempfile.TemporaryDirectory() as temporary:
        staging, files = Path(temporary), {}
        for name in dict.fromkeys(data for work in arguments.work for data in _DATA.get(work, ())):
            print(f"compressing {name}", flush=True)
            files[f"data/{name}.zip"] = staging / f"{name}.zip"
            write_archive(load_cached(name), staging / f"{name}.zip")
        found = sorted(arguments.wheels.glob("*.whl")) if arguments.wheels else None
        if found is None:
            parts = [work for work in arguments.work if work in NEEDED]
            packages = missing_packages(parts, arguments.python)
            print(f"fetching {len(packages)} wheels for Python {arguments.python}", flush=True)
            found = download(packages, staging, arguments.python)
        # The small ones first, so that few parts are enough to begin with.
        for wheel in sorted(found, key=lambda path: path.stat().st_size):
            files[f"wheels/{wheel.name}"] = wheel
        written = write_parts(files, arguments.to, part_bytes=arguments.part_size)
        for name, path in files.items():
            print(f"  {path.stat().st_size / 1e6:8.2f} MB  {name}")
        for path in written:
            print(f"{path.stat().st_size / 1e6:10.2f} MB  {path}")


def unpack(parts: Path, to: Path) -> None:
    """Write the files that are complete, install the wheels among them, and decode the data.

    Raises:
        PartsError: there are no parts, or one is damaged.
        WheelsError: the wheels are for another Python.
    """
    unpacked = read_parts(parts, to)
    wheels = [to / name for name in unpacked.written if name.startswith("wheels/")]
    if wheels:
        install(wheels, to / "site")
    for name in unpacked.written:
        if name.startswith("data/"):
            _decode(to / name, to / "cache" / "limelight")
    for name in unpacked.written:
        print(f"complete: {name}")
    for name, absent in unpacked.missing.items():
        print(f"not complete: {name}; bring {', '.join(f'part-{it:03}.bin' for it in absent)}")
    variables = {
        "PYTHONPATH": [(to / "site").resolve()],
        "XDG_CACHE_HOME": [(to / "cache").resolve()],
        # ONNX Runtime looks for CUDA's packages beside itself only.
        "LD_LIBRARY_PATH": _cuda_folders(),
    }
    print("export", *(f"{name}={':'.join(map(str, it))}" for name, it in variables.items() if it))


def _cuda_folders() -> list[Path]:
    """Folders in which the installed NVIDIA packages have their libraries."""
    found = find_spec("nvidia")
    roots = map(Path, found.submodule_search_locations or ()) if found else ()
    return sorted(folder for root in roots for folder in root.glob("*/lib"))


def _decode(file: Path, cache: Path) -> None:
    """Write a data set's arrays to where the cache has them. What reads them compares checksums."""
    import numpy as np

    from bench.gpu.image_archive import read_archive

    cache.mkdir(parents=True, exist_ok=True)
    np.savez(cache / f"{file.stem}.npz", allow_pickle=False, **read_archive(file))


def _bytes(text: str) -> int:
    number, unit = text[:-1], text[-1:].upper()
    if unit.isdigit():
        number, unit = text, ""
    if not number.isdigit() or (unit and unit not in _UNITS):
        raise argparse.ArgumentTypeError(f"{text!r}: say 25M for 25 MiB, or a number of bytes")
    return int(number) * _UNITS.get(unit, 1)
