"""Who takes part: how each server is started, and how it wants to be asked."""

import json
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.serving.environments import ROOT, Environment
from bench.serving.formats import (
    Encode,
    base64_json,
    classified_label,
    first_label,
    form,
    lists,
    open_inference,
    open_inference_binary,
    open_inference_label,
    open_inference_lists,
    plain_label,
    raw,
)
from bench.serving.servers import free_ports
from bench.serving.workloads import Workload
from limelight.artifact.store import newest_version


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a server of the benchmark runs."""

    environment: Environment
    folder: Path
    """Its own, and empty."""
    port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Contestant:
    """One way to ask one server. `path` may hold `{model}`."""

    name: str
    title: str
    path: str
    encode: Encode
    label: Callable[[bytes], str]
    batches: bool = False
    """Whether its /metrics tell the sizes of its batches."""
    takes_batches: bool = False
    """Whether a request to it holds the pixels of many images, and not one encoded image."""

    def fits(self, workload: Workload) -> bool:
        """Whether it can be asked for this."""
        return self.takes_batches == (workload.batch > 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A server with the contestants that it answers."""

    name: str
    setup: str
    """One line: how it is set up, and why so."""
    environment: str | None
    """The peers' environment that it needs; None is the project's own."""
    packages: tuple[str, ...]
    command: Callable[[Place], Sequence[str]]
    contestants: tuple[Contestant, ...]
    variables: dict[str, str] = field(default_factory=dict)
    stop_signal: signal.Signals = signal.SIGTERM


def _bentoml(target: str | None) -> Callable[[Place], Sequence[str]]:
    def command(place: Place) -> Sequence[str]:
        arguments = [] if target is None else [target]
        bentoml = place.environment.tool("bentoml")
        return [bentoml, "serve", *arguments, "--host", "127.0.0.1", "--port", str(place.port)]

    return command


def _fastapi(place: Place) -> Sequence[str]:
    uvicorn = [place.environment.tool("uvicorn"), "bench.peers.fastapi_queue:app"]
    return [*uvicorn, "--port", str(place.port), "--workers", "2", "--no-access-log"]


def _litserve(place: Place) -> Sequence[str]:
    python = str(place.environment.python)
    return [python, "-m", "bench.peers.litserve_server", str(place.port)]


def _mlserver(place: Place) -> Sequence[str]:
    grpc, metrics = free_ports(2)
    settings = {
        "host": "127.0.0.1",
        "http_port": place.port,
        "grpc_port": grpc,
        "metrics_port": metrics,
        "parallel_workers": 2,
        "use_structured_logging": False,
    }
    model = {
        "name": "image",
        "implementation": "bench.peers.mlserver_runtime.Runtime",
        "max_batch_size": 32,
        "max_batch_time": 0.001,
    }
    (place.folder / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
    (place.folder / "model-settings.json").write_text(json.dumps(model), encoding="utf-8")
    return [place.environment.tool("mlserver"), "start", str(place.folder)]


OURS = Entry(
    name="ours",
    setup="`bentoml serve` as it comes: workers and threads chosen from the cores",
    environment=None,
    packages=("bentoml", "onnxruntime-gpu", "onnxruntime", "pillow", "uvloop", "httptools"),
    command=_bentoml(None),
    contestants=(
        Contestant(
            name="predict",
            title="Limelight `/predict`",
            path="/predict?model={model}",
            encode=raw,
            label=plain_label,
            batches=True,
        ),
        Contestant(
            name="explain",
            title="Limelight `/explain`",
            path="/explain?model={model}",
            encode=raw,
            label=plain_label,
            batches=True,
        ),
        Contestant(
            name="infer",
            title="Limelight `/v2/models/…/infer`",
            path="/v2/models/{model}/infer",
            encode=open_inference_binary,
            label=classified_label,
            batches=True,
            takes_batches=True,
        ),
    ),
)

PEERS: tuple[Entry, ...] = (
    Entry(
        name="bentoml",
        setup="`@bentoml.api` with an image, 2 workers, its own defaults otherwise",
        environment="main",
        packages=("bentoml", "onnxruntime", "pillow"),
        command=_bentoml("bench.peers.bentoml_native:Native"),
        contestants=(
            Contestant(
                name="bentoml",
                title="BentoML, native API",
                path="/predict",
                encode=form("image"),
                label=plain_label,
            ),
            Contestant(
                name="bentoml-array",
                title="BentoML, native API, an array",
                path="/classify",
                encode=lists,
                label=first_label,
                takes_batches=True,
            ),
        ),
    ),
    Entry(
        name="bentoml-default",
        setup="the same with 1 worker and ONNX Runtime's default threads: nothing tuned",
        environment="main",
        packages=("bentoml", "onnxruntime", "pillow"),
        command=_bentoml("bench.peers.bentoml_native:Native"),
        variables={"BENCH_UNTUNED": "1"},
        contestants=(
            Contestant(
                name="bentoml-default",
                title="BentoML, native API, untuned",
                path="/predict",
                encode=form("image"),
                label=plain_label,
            ),
        ),
    ),
    Entry(
        name="bentoml-batchable",
        setup="the native API, 2 workers, with `batchable=True, max_batch_size=32`",
        environment="main",
        packages=("bentoml", "onnxruntime", "pillow"),
        command=_bentoml("bench.peers.bentoml_batchable:Batchable"),
        contestants=(
            Contestant(
                name="bentoml-batchable",
                title="BentoML, native API, batchable",
                path="/predict",
                encode=form("images"),
                label=first_label,
            ),
        ),
    ),
    Entry(
        name="litserve",
        setup="2 workers, batches of up to 32 gathered for 1 ms, base64 in JSON",
        environment="main",
        packages=("litserve", "fastapi", "uvicorn", "onnxruntime", "pillow"),
        command=_litserve,
        stop_signal=signal.SIGINT,  # its parent outlives a SIGTERM
        contestants=(
            Contestant(
                name="litserve",
                title="LitServe",
                path="/predict",
                encode=base64_json,
                label=plain_label,
            ),
        ),
    ),
    Entry(
        name="fastapi",
        setup="our queue and engine, `uvicorn --workers 2`, no access log, the raw body, Pillow",
        environment="main",
        packages=("fastapi", "uvicorn", "onnxruntime", "pillow"),
        command=_fastapi,
        contestants=(
            Contestant(
                name="fastapi",
                title="FastAPI with our queue",
                path="/predict",
                encode=raw,
                label=plain_label,
            ),
            Contestant(
                name="fastapi-raw",
                title="FastAPI with our engine, raw pixels",
                path="/classify",
                encode=raw,
                label=first_label,
                takes_batches=True,
            ),
        ),
    ),
    Entry(
        name="mlserver",
        setup="a runtime of one's own, 2 parallel workers, batches of up to 32 gathered for 1 ms",
        environment="mlserver",
        packages=("mlserver", "fastapi", "onnxruntime", "pillow"),
        command=_mlserver,
        contestants=(
            Contestant(
                name="mlserver",
                title="MLServer",
                path="/v2/models/image/infer",
                encode=open_inference,
                label=open_inference_label,
            ),
            Contestant(
                name="mlserver-tensor",
                title="MLServer, a tensor",
                path="/v2/models/image/infer",
                encode=open_inference_lists,
                label=open_inference_label,
                takes_batches=True,
            ),
        ),
    ),
)

ENTRIES: tuple[Entry, ...] = (OURS, *PEERS)


def variables(entry: Entry, *, model: str, folder: Path, device: str) -> dict[str, str]:
    """What a server finds in its environment besides what it inherits."""
    return {
        **entry.variables,
        "LIMELIGHT_DEVICE": device,
        "BENCH_DEVICE": device,
        "BENCH_MODEL": str(newest_version(ROOT / "zoo" / model)),
        # BentoML empties this folder's metrics at its start, so each run has its own.
        "BENTOML_HOME": str(folder / "bentoml"),
        "BENTOML_DO_NOT_TRACK": "True",
        "PYTHONPATH": str(ROOT),
    }
