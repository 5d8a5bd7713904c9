"""The Python packages that an isolated machine lacks, as wheels for its Python."""

import re
import subprocess
import sys
from collections.abc import Iterable
from importlib.metadata import distribution
from pathlib import Path

THERE = (
    "torch", "torchvision", "onnx", "onnxscript", "safetensors", "scikit-learn", "matplotlib",
    "pillow",
)  # fmt: skip
"""Packages of a machine with PyTorch and its usual companions, and with them what they need."""

_NETWORKS = ("pydantic", "prometheus-client", "psutil")
NEEDED: dict[str, tuple[str, ...]] = {
    "check": (*_NETWORKS, "nvidia-ml-py"),
    "train": _NETWORKS,
    "teach": _NETWORKS,
    "serve": ("limelight[serve]", "psutil"),
    "parity": (*_NETWORKS, "onnxruntime-gpu"),
}
"""Packages by the part of the work that imports them."""

# Carried all the same: an older one is not enough.
_NEWER = {"typing-extensions"}
_PLATFORMS = ("manylinux_2_28", "manylinux_2_27", "manylinux_2_17", "manylinux2014", "manylinux1")


class WheelsError(Exception):
    """A wheel cannot be had; the message is pip's."""


def missing_packages(parts: Iterable[str], python: str) -> dict[str, str]:
    """The packages that `parts` need beyond THERE, and the version of each that is installed here.

    `python` is the version of Python that they are for, such as 3.12.
    """
    wanted = closure((name for part in parts for name in NEEDED[part]), python)
    there = closure(THERE, python) - _NEWER
    names = sorted(wanted - there - {"limelight"})
    return {name: distribution(name).version for name in names}


def closure(names: Iterable[str], python: str) -> set[str]:
    """Normalised names of packages and of all that they require, as installed here.

    A name may have extras, as in `limelight[serve]`.
    """
    from packaging.requirements import Requirement

    found: set[tuple[str, str]] = set()
    waiting: list[tuple[str, str]] = []
    for wanted in map(Requirement, names):
        waiting += [(_normalised(wanted.name), extra) for extra in ("", *wanted.extras)]
    while waiting:
        name, extra = waiting.pop()
        if (name, extra) in found:
            continue
        found.add((name, extra))
        for text in distribution(name).requires or ():
            required = Requirement(text)
            about = {"python_version": python, "python_full_version": f"{python}.0"}
            if required.marker is None or required.marker.evaluate({**about, "extra": extra}):
                extras = ("", *required.extras)
                waiting += [(_normalised(required.name), each) for each in extras]
    return {name for name, _ in found}


def download(packages: dict[str, str], folder: Path, python: str) -> list[Path]:
    """Let pip fetch the wheel of each package into `folder`.

    Raises:
        WheelsError: there is none for that Python.
    """
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += ["--no-deps", "--only-binary=:all:", "--implementation", "cp"]
    command += ["--python-version", python, "--dest", str(folder)]
    for platform in _PLATFORMS:
        command += ["--platform", f"{platform}_x86_64"]
    command += [f"{name}=={version}" for name, version in packages.items()]
    if packages:
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode:
            raise WheelsError(f"pip cannot fetch the wheels: {done.stderr.strip()[-1000:]}")
    return sorted(folder.glob("*.whl"))


def install(wheels: Iterable[Path], folder: Path) -> None:
    """Let pip install wheels into `folder`, for PYTHONPATH, without asking any index.

    Raises:
        WheelsError: one is for another Python.
    """
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    command += ["--no-index", "--no-deps", "--upgrade", "--target", str(folder)]
    done = subprocess.run(
        [*command, *map(str, wheels)], check=False, capture_output=True, text=True
    )
    if done.returncode:
        raise WheelsError(f"pip cannot install the wheels: {done.stderr.strip()[-1000:]}")


def _normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
