"""ONNX Runtime alone on a device: images already decoded, no HTTP, no load generator."""

import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing.synchronize import Barrier
from pathlib import Path

import numpy as np
import onnxruntime as ort

from bench.common import ROOT
from bench.peers.network import open_session
from limelight.artifact.store import newest_version

BATCHES = {
    "cpu": (1, 2, 4, 8, 16, 32, 64),
    "cuda": (1, 8, 32, 64, 128, 256, 512, 1024),
}
# (processes, threads each) that two cores, or a GPU, can be used with; whichever is faster counts.
LAYOUTS = {"cpu": ((2, 1), (1, 2)), "cuda": ((1, 1), (2, 1))}


@dataclass(frozen=True, slots=True)
class Rate:
    """Images per second of all processes together."""

    model: str
    processes: int
    threads: int
    batch: int
    images_per_s: float


class _Runner:
    """A process's session; every process begins each measurement at the same time."""

    session: ort.InferenceSession
    barrier: Barrier

    @classmethod
    def open(cls, folder: Path, threads: int, device: str, barrier: Barrier) -> None:
        cls.session = open_session(folder / "model.onnx", threads=threads, device=device)
        cls.barrier = barrier

    @classmethod
    def run(cls, batch: int, seconds: float) -> float:
        """Images per second; the network sees as many different images as a batch has."""
        size = [int(edge) for edge in cls.session.get_inputs()[0].shape[1:]]
        rng = np.random.default_rng(0)
        feed = {"images": rng.integers(0, 256, size=(batch, *size), dtype=np.uint8)}
        for _ in range(3):
            cls.session.run(["probabilities"], feed)
        cls.barrier.wait()
        runs, started_s = 0, time.perf_counter()
        while (elapsed_s := time.perf_counter() - started_s) < seconds:
            cls.session.run(["probabilities"], feed)
            runs += 1
        return runs * batch / elapsed_s


def measure(model: str, *, seconds: float, device: str = "cpu") -> list[Rate]:
    """Every layout at every batch size, `seconds` each.

    Raises:
        BrokenProcessPool: the device cannot be had; the process has said why.
    """
    rates = []
    context = multiprocessing.get_context("spawn")
    folder = newest_version(ROOT / "zoo" / model)
    for processes, threads in LAYOUTS[device]:
        setup = (folder, threads, device, context.Barrier(processes))
        with ProcessPoolExecutor(processes, context, _Runner.open, setup) as pool:
            for batch in BATCHES[device]:
                waiting = [pool.submit(_Runner.run, batch, seconds) for _ in range(processes)]
                together = sum(each.result() for each in waiting)
                rates.append(Rate(model, processes, threads, batch, together))
    return rates
