"""Virtual environments of the peers, which the benchmark makes itself."""

import subprocess
import venv
from dataclasses import dataclass
from pathlib import Path

from bench.common import ROOT

FOLDER = ROOT / ".venv-peers"

_NETWORK = ("onnxruntime==1.31.1", "pillow==13.0.0", "psutil==7.2.2")

PACKAGES: dict[str, tuple[str, ...]] = {
    "main": (
        "bentoml==1.4.39", "fastapi==0.165.0", "litserve==0.2.19", "numpy==2.4.6", *_NETWORK,
        "python-multipart==0.0.34", "uvicorn[standard]==0.54.0",
    ),
    # It demands an older FastAPI, and its workers ask for an event loop that uvloop gives from 0.22
    # on only where one runs.
    "mlserver": ("mlserver==1.7.1", "numpy==2.4.6", "uvloop==0.21.0", *_NETWORK),
    "ray": ("ray[serve]==2.60.0", "numpy==2.4.6", *_NETWORK),
    "triton": ("nvidia-pytriton==0.7.0", "numpy==1.26.4", *_NETWORK),
}  # fmt: skip


class NotInstallableError(Exception):
    """A peer's packages cannot be had here; the message is pip's reason."""


@dataclass(frozen=True, slots=True)
class Environment:
    """A Python with what some servers need."""

    python: Path

    def tool(self, name: str) -> str:
        """Path of a command that one of the packages brought."""
        return str(self.python.parent / name)


def prepare(
    name: str, packages: tuple[str, ...] | None = None, *, device: str = "cpu"
) -> Environment:
    """The environment `name` for a device; made again, where it isn't what `packages` say.

    Without them they are those of PACKAGES.

    Raises:
        NotInstallableError: pip failed.
    """
    packages = packages or PACKAGES[name]
    if device == "cuda":
        name += "-cuda"
        packages = tuple(
            each.replace("onnxruntime==", "onnxruntime-gpu[cuda,cudnn]==") for each in packages
        )
    folder, wanted = FOLDER / name, "\n".join(packages)
    marker, python = folder / "installed.txt", folder / "bin" / "python"
    if not (marker.is_file() and marker.read_text(encoding="utf-8") == wanted):
        print(f"installing the peers' environment {name!r} ...", flush=True)
        venv.create(folder, clear=True, with_pip=True)
        command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        done = subprocess.run([*command, *packages], check=False, capture_output=True, text=True)
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
            raise NotInstallableError(" ".join(lines)[:300] or f"pip exited {done.returncode}")
        marker.write_text(wanted, encoding="utf-8")
    return Environment(python)
