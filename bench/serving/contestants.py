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
    open_inference_binary,
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
    variables: Mapping[str, str] = field(default_factory=dict)
    stop_signal: signal.Signals = signal.SIGTERM


def _bentoml(environment: Environment, port: int) -> Sequence[str]:
    command = [environment.tool("bentoml"), "serve", "bench.peers.bentoml_native:Native"]
    return [*command, "--host", "127.0.0.1", "--port", str(port)]


def _fastapi(environment: Environment, port: int) -> Sequence[str]:
    uvicorn = [environment.tool("uvicorn"), "bench.peers.fastapi_queue:app"]
    return [*uvicorn, "--port", str(port), "--workers", "2", "--no-access-log"]


def _litserve(environment: Environment, port: int) -> Sequence[str]:
    return [str(environment.python), "-m", "bench.peers.litserve_server", str(port)]


_INFER = "/v2/models/{model}/infer"
OURS = Entry(
    "ours",
    "`bentoml serve` as it comes: workers and threads chosen from the cores",
    lambda _, port: limelight_command(port),
    (
        Contestant("predict", "Limelight `/predict`", "/predict?model={model}", raw, plain_label),
        Contestant("explain", "Limelight `/explain`", "/explain?model={model}", raw, plain_label),
        Contestant(
            "infer", "Limelight, batches", _INFER, open_inference_binary, classified_label, True
        ),
    ),
)

PEERS: tuple[Entry, ...] = (
    Entry(
        "bentoml",
        "`@bentoml.api` with an image, 2 workers, its own defaults otherwise",
        _bentoml,
        (Contestant("bentoml", "BentoML, native API", "/predict", form, plain_label),),
    ),
    Entry(
        "untuned",
        "the same with 1 worker and ONNX Runtime's default threads: nothing tuned",
        _bentoml,
        (Contestant("untuned", "BentoML, as it comes", "/predict", form, plain_label),),
        {"BENCH_UNTUNED": "1"},
    ),
    Entry(
        "litserve",
        "2 workers, batches of up to 32 gathered for 1 ms, base64 in JSON",
        _litserve,
        (Contestant("litserve", "LitServe", "/predict", base64_json, plain_label),),
        stop_signal=signal.SIGINT,  # its parent outlives a SIGTERM
    ),
    Entry(
        "fastapi",
        "our queue and engine, `uvicorn --workers 2`, no access log, the raw body, Pillow",
        _fastapi,
        (
            Contestant("fastapi", "FastAPI with our queue", "/predict", raw, plain_label),
            Contestant("fastapi-raw", "FastAPI, batches", "/classify", raw, first_label, True),
        ),
    ),
)
ENTRIES = (OURS, *PEERS)


def variables(entry: Entry, *, model: str, device: str) -> dict[str, str]:
    """Variables of a server's environment, besides those that it inherits."""
    return {
        **entry.variables,
        "LIMELIGHT_DEVICE": device,
        "BENCH_DEVICE": device,
        "BENCH_MODEL": str(newest_version(ROOT / "zoo" / model)),
        "PYTHONPATH": str(ROOT),
    }
