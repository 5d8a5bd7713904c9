"""Contestants: the command of each server, and the way to ask it."""

import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from bench.common import ROOT
from bench.common.server import limelight_command
from bench.serving.environments import Environment
from bench.serving.formats import (
    Encode,
    base64_json,
    classified_label,
    first_label,
    form,
    open_inference_image,
    open_inference_json,
    open_inference_lists,
    open_inference_pixels,
    output_label,
    plain_label,
    raw,
)
from bench.serving.workloads import Workload
from limelight.artifact.store import newest_version


@dataclass(frozen=True, slots=True)
class Contestant:
    """One way to ask one server. `path` may hold `{model}`."""

    name: str
    title: str
    path: str
    encode: Encode
    label: Callable[[bytes], str]
    """Reads the label out of an answer."""
    takes_batches: bool = False
    """A request to it holds the pixels of many images, and not one encoded image."""

    def fits(self, workload: Workload) -> bool:
        """True if it can be asked for this."""
        return self.takes_batches == (workload.batch > 1)


@dataclass(frozen=True, slots=True)
class Entry:
    """A server with the contestants that it answers."""

    name: str
    setup: str
    command: Callable[[Environment, int], Sequence[str]]
    """Makes the command out of an environment and a port."""
    contestants: tuple[Contestant, ...]
    environment: str | None = "main"
    """Name of the environment that it needs; None: the project's own."""
    variables: Mapping[str, str] = field(default_factory=dict)
    stop_signal: signal.Signals = signal.SIGTERM


def _bentoml(environment: Environment, port: int) -> Sequence[str]:
    command = [environment.tool("bentoml"), "serve", "bench.peers.bentoml_batchable:Batchable"]
    return [*command, "--host", "127.0.0.1", "--port", str(port)]


def _fastapi(environment: Environment, port: int) -> Sequence[str]:
    uvicorn = [environment.tool("uvicorn"), "bench.peers.fastapi_server:app"]
    return [*uvicorn, "--port", str(port), "--workers", "2", "--no-access-log"]


def _module(name: str) -> Callable[[Environment, int], Sequence[str]]:
    return lambda environment, port: [
        str(environment.python), "-m", f"bench.peers.{name}", str(port)
    ]  # fmt: skip


def _ours(name: str, title: str, *, explain: bool) -> tuple[Contestant, ...]:
    infer, predict = "/v2/models/{model}/infer", "/predict?model={model}"
    encode = open_inference_image("image_bytes")
    found = (
        Contestant(f"predict{name}", f"{title} `/predict`", predict, raw, plain_label),
        Contestant(
            f"oip{name}", f"{title}, Open Inference Protocol", infer, encode, classified_label
        ),
        Contestant(
            *(f"infer{name}", f"{title}, batches", infer, open_inference_pixels, classified_label),
            takes_batches=True,
        ),
    )
    path = "/explain?model={model}"
    explained = Contestant("explain", f"{title} `/explain`", path, raw, plain_label)
    return (*found, explained) if explain else found


OURS = Entry(
    "ours",
    "`bentoml serve`, workers and threads chosen from the cores, float32 like all peers",
    lambda _, port: limelight_command(port),
    _ours("", "Limelight", explain=True),
    None,
    {"LIMELIGHT_PRECISION": "float32"},
)
OURS_INT8 = Entry(
    "ours-int8",
    "the same with the precision that it chooses itself: int8 where that is right and faster",
    lambda _, port: limelight_command(port),
    _ours("-int8", "Limelight, int8", explain=False),
    None,
)

PEERS: tuple[Entry, ...] = (
    Entry(
        "bentoml",
        "`@bentoml.api(batchable=True, max_batch_size=32)`, 2 workers",
        _bentoml,
        (Contestant("bentoml", "BentoML, native API", "/predict", form, first_label),),
    ),
    Entry(
        "untuned",
        "the same with 1 worker and ONNX Runtime's default threads: nothing tuned",
        _bentoml,
        (Contestant("untuned", "BentoML, as it comes", "/predict", form, first_label),),
        variables={"BENCH_UNTUNED": "1"},
    ),
    Entry(
        "litserve",
        "2 workers, batches of up to 32 gathered for 1 ms, base64 in JSON",
        _module("litserve_server"),
        (Contestant("litserve", "LitServe", "/predict", base64_json, plain_label),),
        stop_signal=signal.SIGINT,  # its parent outlives a SIGTERM
    ),
    Entry(
        "fastapi",
        "ONNX Runtime in its thread pool, `uvicorn --workers 2`, no access log, the raw body",
        _fastapi,
        (
            Contestant("fastapi", "FastAPI", "/predict", raw, plain_label),
            Contestant("fastapi-raw", "FastAPI, batches", "/classify", raw, first_label, True),
        ),
    ),
    Entry(
        "mlserver",
        "a custom runtime, 2 parallel workers, batches of up to 32 gathered for 1 ms",
        _module("mlserver_server"),
        (
            Contestant(
                *("mlserver", "MLServer", "/v2/models/image/infer"),
                *(open_inference_json, output_label),
            ),
            Contestant(
                *("mlserver-tensor", "MLServer, batches", "/v2/models/image/infer"),
                *(open_inference_lists, output_label, True),
            ),
        ),
        "mlserver",
    ),
    Entry(
        "ray",
        "2 replicas, `@serve.batch` of up to 32 gathered for 1 ms, the raw body",
        _module("ray_server"),
        (Contestant("ray", "Ray Serve", "/", raw, plain_label),),
        "ray",
        {"RAY_USAGE_STATS_ENABLED": "0"},
    ),
    Entry(
        "triton",
        "Triton 2.51, Python backend that calls ONNX Runtime, 2 instances, dynamic batching",
        _module("triton_server"),
        (
            Contestant(
                *("triton", "Triton", "/v2/models/image/infer"),
                *(open_inference_image("images"), classified_label),
            ),
            Contestant(
                *("triton-tensor", "Triton, batches", "/v2/models/pixels/infer"),
                *(open_inference_pixels, classified_label, True),
            ),
        ),
        "triton",
    ),
)
ENTRIES = (OURS, OURS_INT8, *PEERS)


def variables(entry: Entry, *, model: str, device: str) -> dict[str, str]:
    """Variables of a server's environment, besides those that it inherits."""
    return {
        **entry.variables,
        "LIMELIGHT_DEVICE": device,
        "BENCH_DEVICE": device,
        "BENCH_MODEL": str(newest_version(ROOT / "zoo" / model)),
        "PYTHONPATH": str(ROOT),
    }
