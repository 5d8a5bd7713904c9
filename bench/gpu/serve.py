"""Share of ONNX Runtime's best speed that the service reaches on this device.

First every way to run a forward pass, as `bench.passes` measures them; then a real `bentoml serve`
under load, with one image in a request and with batches of pixels, on more and more connections.
"""

import itertools
import multiprocessing
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from bench import passes
from bench.common.client import Call, Client, http_request
from bench.common.load import Load, keep_busy
from bench.common.load import run as run_loop
from bench.common.server import limelight
from bench.common.spread import percentile
from bench.gpu.formats import MODELS, export_again
from bench.gpu.results import Deadline, Results
from bench.gpu.scale import Scale
from bench.serving.formats import Encode, open_inference_pixels, raw
from bench.serving.workloads import WORKLOADS, Workload
from limelight.artifact.store import Artifact
from limelight.runtime.onnx_session import Device, EngineError

# Processes that make the load: one alone is slower than a GPU.
_CLIENTS = 4
_BODIES = 16
_REPEATS = 3
# Large batches of many connections would be refused else.
_MOST_QUEUED = 65_536


def run(
    scale: Scale, device: torch.device, results: Results, deadline: Deadline, folder: Path
) -> None:
    """Measure the forward passes of each model, then the service."""
    on: Device = "cuda" if device.type == "cuda" else "cpu"
    best: dict[str, float] = {}
    artifacts: list[Artifact] = []
    for name in scale.models:
        exported = results.attempt(name, partial(export_again, name, folder / MODELS))
        if exported is None:
            continue
        artifacts.append(exported[0])
        rate = partial(measure_passes, exported[0], on, scale, results)
        best[name] = results.attempt(f"{name}, forward passes", rate) or 0.0
    step = partial(measure_service, best, on, scale, results, deadline, folder / MODELS)
    results.attempt("service", step)
    for artifact in artifacts:
        # Last, because it takes minutes to build its engines.
        try:
            measure_passes(artifact, "tensorrt", scale, results)
        except EngineError as error:
            results.add(f"{artifact.manifest.name} on TensorRT", f"not measured: {error}")


def measure_passes(artifact: Artifact, device: Device, scale: Scale, results: Results) -> float:
    """Images a second of every way to run a pass; the best of `session.run`.

    Raises:
        EngineError: the device cannot be had.
    """
    report = passes.measure(
        artifact,
        device=device,
        threads=1,
        batches=scale.batches,
        repeats=_REPEATS,
        seconds=scale.load_s / 10,
    )
    title = f"{report.model}, forward passes on {report.provider}"
    results.add(title, {"images a second": [asdict(it) for it in report.measured]})
    results.add(f"{title}, missing", dict(report.missing))
    plain = [it for it in report.measured if it.way.startswith("run, ")]
    return max((it.images_per_s.median for it in plain), default=0.0)


def measure_service(
    best: dict[str, float],
    device: Device,
    scale: Scale,
    results: Results,
    deadline: Deadline,
    models: Path,
) -> None:
    """Load a `bentoml serve` of the models, and compare with the best of `session.run`.

    Raises:
        ServerError: it does not get ready; the message has its log's end.
    """
    settings = {
        "LIMELIGHT_MODELS": str(models),
        "LIMELIGHT_DEVICE": device,
        "LIMELIGHT_MAX_BATCH": str(max(scale.batches)),
        "LIMELIGHT_MAX_QUEUED": str(_MOST_QUEUED),
    }
    context = multiprocessing.get_context("spawn")
    with limelight(settings) as server, ProcessPoolExecutor(_CLIENTS, context) as clients:
        port = server.port
        for name, batched in itertools.product(best, (False, True)):
            for connections in scale.connections:
                if deadline.left_s < 2 * scale.load_s:
                    results.add("service", "ended early: its time is over")
                    return
                calls = _calls(name, scale, batched=batched)
                found = _load(clients, port, calls, connections, scale.load_s)
                rate = found.pop("requests a second") * (_batch(scale) if batched else 1)
                kind = f"requests of {_batch(scale)} images" if batched else "single images"
                share = {"share of session.run's best": rate / best[name]} if best[name] else {}
                title = f"{name}, {kind}, {connections} connections"
                results.add(title, {"images a second": rate, **share, **found})


def _batch(scale: Scale) -> int:
    return min(64, max(scale.batches))


def _calls(name: str, scale: Scale, *, batched: bool) -> list[Call]:
    """Requests to be sent in turn."""
    workload: Workload = WORKLOADS[f"{name}-{'batch' if batched else 'png'}"]
    encode: Encode = raw
    path = f"/predict?model={name}"
    if batched:
        workload = replace(workload, batch=_batch(scale))
        encode, path = open_inference_pixels, f"/v2/models/{name}/infer"
    encoded = (encode(body, workload) for body in workload.bodies(_BODIES))
    return [Call(path, http_request("POST", path, body, dict(head))) for body, head in encoded]


def _load(
    clients: ProcessPoolExecutor, port: int, calls: list[Call], connections: int, seconds: float
) -> dict[str, Any]:
    """Rate and latencies of a load that several processes make together."""
    shares = [connections // _CLIENTS] * _CLIENTS
    for extra in range(connections % _CLIENTS):
        shares[extra] += 1
    waiting = [clients.submit(post, port, calls, share, seconds) for share in shares if share]
    loads = [each.result() for each in waiting]
    latencies_s = sorted(it for load in loads for it in load.latencies_s())
    answers: Counter[str] = sum((load.count() for load in loads), Counter())
    return {
        "requests a second": sum(load.goodput() for load in loads),
        "p50, ms": 1000 * percentile(latencies_s, 50),
        "p99, ms": 1000 * percentile(latencies_s, 99),
        "answers": dict(answers),
    }


def post(port: int, calls: Sequence[Call], connections: int, seconds: float) -> Load:
    """Keep so many requests under way for so long; the body of one load process."""

    async def load() -> Load:
        client = Client(port)
        return await keep_busy(
            client, itertools.cycle(calls), connections=connections, seconds=seconds
        )

    return run_loop(load())
