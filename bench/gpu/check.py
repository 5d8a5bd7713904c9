"""A description of this machine, and a try of each thing that the other parts need."""

import importlib
import platform
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from pydantic import JsonValue

from bench.common import ROOT
from bench.common.machine import cpu_name
from bench.gpu.results import Deadline, Results
from bench.gpu.scale import Scale
from bench.training_step import make_step
from limelight.artifact.store import load_artifact, newest_version
from limelight.runtime.engine import Engine
from limelight.runtime.onnx_session import Device, open_session
from limelight.runtime.sessions import Sessions
from pipeline.training.device import uses_bfloat16
from pipeline.training.recipe import Recipe

_LIBRARIES = (
    "torch", "torchvision", "triton", "numpy", "onnx", "onnxscript", "onnxruntime", "pydantic",
    "bentoml", "orjson", "httptools", "uvloop",
)  # fmt: skip
_STEPS = 5


def run(scale: Scale, device: torch.device, results: Results, deadline: Deadline) -> None:
    """Describe the machine, then try training, inference and I/O binding once each."""
    results.add("machine", machine(device))
    found = libraries()
    results.add("libraries", found)
    results.add("missing", missing(found))
    results.attempt("training", lambda: results.add("training", train_steps(scale, device)))
    results.attempt("inference", lambda: results.add("inference", infer(scale, device)))


def machine(device: torch.device) -> dict[str, JsonValue]:
    """Card, driver, CUDA, processor and Python."""
    found: dict[str, JsonValue] = {
        "cpu": cpu_name(),
        "python": platform.python_version(),
        "bfloat16": uses_bfloat16(device),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
        "card": torch.cuda.get_device_name() if device.type == "cuda" else None,
    }
    query = shutil.which("nvidia-smi")
    if query is not None:
        fields = "--query-gpu=name,driver_version,memory.total,power.limit,clocks.max.sm"
        command = [query, fields, "--format=csv,noheader"]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        found["nvidia-smi"] = (done.stdout or done.stderr).strip()
    return found


def libraries() -> dict[str, JsonValue]:
    """The version of each library, or why it cannot be imported."""
    found: dict[str, JsonValue] = {}
    for name in _LIBRARIES:
        try:
            module = importlib.import_module(name)
        # A library that is built for another machine fails with whatever its loader raises.
        except Exception as error:
            found[name] = f"missing: {error}"
        else:
            found[name] = str(getattr(module, "__version__", "installed"))
    found["providers"] = list(ort.get_available_providers())
    return found


def missing(found: Mapping[str, JsonValue]) -> list[JsonValue]:
    """Say what other parts will lack, a sentence each."""
    absent = [f"{name} is {why}" for name, why in found.items() if str(why).startswith("missing")]
    if "CUDAExecutionProvider" not in str(found["providers"]):
        absent.append("ONNX Runtime is built for the CPU only: install onnxruntime-gpu")
    return [f"{sentence}; `python -m bench.gpu pack` brings it" for sentence in absent]


def train_steps(scale: Scale, device: torch.device) -> dict[str, JsonValue]:
    """Milliseconds of one training step, eager and compiled, and seconds to compile it."""
    changes = next(iter(next(iter(scale.marks.values())).values()))
    recipe = Recipe.load(scale.recipe, **changes)
    found: dict[str, JsonValue] = {"batch": recipe.batch_size}
    for name, compiled in (("eager", False), ("compiled", True)):
        step = make_step(
            recipe,
            device,
            bfloat16=uses_bfloat16(device),
            memory_format=torch.channels_last,
            compiled=compiled,
        )
        started = time.perf_counter()
        step()
        found[f"{name}, first step, s"] = round(time.perf_counter() - started, 3)
        times = []
        for _ in range(_STEPS):
            started = time.perf_counter()
            step()
            times.append(time.perf_counter() - started)
        found[f"{name}, ms"] = round(1000 * float(np.median(times)), 3)
    return found


def infer(scale: Scale, device: torch.device) -> dict[str, JsonValue]:
    """Run a shipped model with and without I/O binding: whether both agree.

    Raises:
        EngineError: the device cannot be had; the message says what is missing.
        ValueError: the two differ, or the service would do without binding.
    """
    artifact = load_artifact(newest_version(ROOT / "zoo" / scale.models[-1]))
    on: Device = "cuda" if device.type == "cuda" else "cpu"
    plain = Engine(artifact, device=on, io_binding=False)
    bound = Engine(artifact, device=on, io_binding=True)
    rule = artifact.manifest.image
    shape = (5, rule.height, rule.width, rule.channels)
    images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    bound.warm_up()
    if not bound.bound:
        raise ValueError("I/O binding does not give the answers of session.run")
    wanted, got = (engine.run(images, ("probabilities",)) for engine in (plain, bound))
    error = float(np.abs(wanted["probabilities"] - got["probabilities"]).max())
    if not error <= 1e-4:
        raise ValueError(f"I/O binding differs from session.run by {error:.2g}")
    graph = artifact.graph(bound.file)
    single = Sessions(partial(open_session, graph, device=on, threads=0), fixed_sizes=False)
    return {
        "provider": bound.provider,
        "largest difference with I/O binding": error,
        "one session, ms": changing_sizes(
            lambda batch: single.run(batch, ["probabilities"]), shape
        ),
        "engine, ms": changing_sizes(lambda batch: bound.run(batch, ["probabilities"]), shape),
    }


def changing_sizes(
    run: Callable[[NDArray[np.uint8]], object], shape: tuple[int, ...]
) -> dict[str, JsonValue]:
    """Time forward passes of one batch size, and of eight sizes in turn: median milliseconds."""
    found: dict[str, JsonValue] = {}
    for name, sizes in (
        ("batches of 8", [8]),
        ("batches of 1 to 8 in turn", [1, 6, 3, 8, 5, 2, 7, 4]),
    ):
        times = []
        for number in range(5 * _STEPS):
            images = np.zeros((sizes[number % len(sizes)], *shape[1:]), np.uint8)
            started = time.perf_counter()
            run(images)
            times.append(time.perf_counter() - started)
        # The first passes of a size prepare it.
        found[name] = round(1000 * float(np.median(times[len(sizes) :])), 3)
    return found
