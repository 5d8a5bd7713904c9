"""What ONNX Runtime alone makes of a device: images already decoded, no HTTP, no load generator.

`python -m bench.serving.ceiling MODEL_FOLDER THREADS DEVICE` is one process of it: for each line
`BATCH SECONDS` on its input it runs that long and prints the images per second.
"""

import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort

from bench.peers.network import open_session
from bench.serving.environments import ROOT
from limelight.artifact.store import newest_version

BATCHES = {
    "cpu": (1, 2, 4, 8, 16, 32, 64),
    "cuda": (1, 8, 32, 64, 128, 256, 512, 1024),
}
# (processes, threads each) that two cores, or a GPU, can be used with; whichever is faster counts.
LAYOUTS = {"cpu": ((2, 1), (1, 2)), "cuda": ((1, 1), (2, 1))}
_PROBE_S = 0.5


class CeilingError(Exception):
    """ONNX Runtime alone could not be run; its process has said why."""


@dataclass(frozen=True, slots=True)
class Rate:
    """Images per second of all processes together."""

    processes: int
    threads: int
    batch: int
    images_per_s: float


def measure(
    model: str, *, seconds: float, device: str = "cpu", batches: Sequence[int] | None = None
) -> list[Rate]:
    """Every layout at every batch size, `seconds` each.

    Raises:
        CeilingError: the device cannot be had.
    """
    rates = []
    for processes, threads in LAYOUTS[device]:
        with ExitStack() as stack:
            group = [stack.enter_context(_runner(model, threads, device)) for _ in range(processes)]
            for batch in batches or BATCHES[device]:
                images_per_s = _together(group, batch, seconds)
                rates.append(Rate(processes, threads, batch, images_per_s))
    return rates


def probe() -> float:
    """How fast the machine is at this moment: images per second of the larger network.

    Shared machines change their speed, and a server must not be blamed for that.
    """
    with ExitStack() as stack:
        group = [stack.enter_context(_runner("cifar10", 1)) for _ in range(LAYOUTS["cpu"][0][0])]
        return _together(group, 1, _PROBE_S)


def _together(group: Sequence[subprocess.Popen[str]], batch: int, seconds: float) -> float:
    for runner in group:
        _write(runner, f"{batch} {seconds}")
    return sum(float(_read(runner)) for runner in group)


@contextmanager
def _runner(model: str, threads: int, device: str = "cpu") -> Iterator[subprocess.Popen[str]]:
    folder = newest_version(ROOT / "zoo" / model)
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.serving.ceiling", str(folder), str(threads), device],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        _read(process)  # it is warm
        yield process
    finally:
        if process.stdin is not None:
            process.stdin.close()  # which ends its loop
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def _write(process: subprocess.Popen[str], line: str) -> None:
    if process.stdin is None:
        raise RuntimeError("the process was started without a pipe")
    process.stdin.write(line + "\n")
    process.stdin.flush()


def _read(process: subprocess.Popen[str]) -> str:
    if process.stdout is None:
        raise RuntimeError("the process was started without a pipe")
    line = process.stdout.readline()
    if not line:
        raise CeilingError(f"ONNX Runtime's process ended with status {process.wait()}")
    return line


def _run(session: ort.InferenceSession, batch: int, seconds: float) -> float:
    """Images per second; the network sees as many different images as a batch has."""
    size = [int(edge) for edge in session.get_inputs()[0].shape[1:]]
    rng = np.random.default_rng(0)
    feed = {"images": rng.integers(0, 256, size=(batch, *size), dtype=np.uint8)}
    for _ in range(3):
        session.run(["probabilities"], feed)
    passes, started = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - started) < seconds:
        session.run(["probabilities"], feed)
        passes += 1
    return passes * batch / elapsed


def _main(folder: str, threads: str, device: str) -> None:
    session = open_session(Path(folder) / "model.onnx", threads=int(threads), device=device)
    _run(session, 1, 0.1)
    print("ready", flush=True)
    for line in sys.stdin:
        batch, seconds = line.split()
        print(_run(session, int(batch), float(seconds)), flush=True)


if __name__ == "__main__":
    _main(*sys.argv[1:])
