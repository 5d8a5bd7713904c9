"""At least 200 hostile inputs for a service with two workers in 1 GiB: `make test-hostile`.

Each is answered with 200, an honest 4xx or 503, within limits of time and of processor time. In the
end the workers are the same, their memory is as at the start, and honest clients noticed nothing.
"""

import json
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from tests.long.hostile.artifacts import ArtifactInput, artifacts
from tests.long.hostile.attack import Result, Target, attack, table
from tests.long.hostile.honest import Honest
from tests.long.hostile.image_files import photo
from tests.long.hostile.images import EXPENSIVE, images
from tests.long.hostile.inputs import HttpInput, post
from tests.long.hostile.limits import Limit, memory_limit, proportional_bytes, workers
from tests.long.hostile.open_inference import GrpcInput, calls, open_inference
from tests.long.hostile.requests import requests
from tests.service.oip.http2 import Http2
from tests.service.oip.kit import free_port
from tests.serving_kit import REPOSITORY, bentoml_serve

MODEL = "cifar10"
INPUTS: list[HttpInput | GrpcInput] = [
    *images(),
    *requests(),
    *open_inference(MODEL),
    *calls(MODEL),
]
ARTIFACTS = list(artifacts())
MEMORY_BYTES = 1 << 30
_GROWTH = 1.1
_REPEATS = 10
# More than the share of the upload budget that unfinished messages have, in one worker.
_HOARDED_BYTES = 200_000_000
_LOADING_S = 30


_REFUSED = 3
# Prints the most memory that it used, in kB.
_LOAD = f"""
import resource, sys
from pathlib import Path
import numpy as np
import limelight
from limelight.artifact.store import ArtifactError
from limelight.runtime.onnx_session import EngineError
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
status, said = 0, ""
try:
    limelight.load(Path(sys.argv[1]), device="cpu").predict(np.zeros((8, 8, 3), np.uint8))
except (ArtifactError, EngineError) as error:
    status, said = {_REFUSED}, str(error)[:500]
peak = Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]
print(peak, said)
sys.exit(status)
"""


@dataclass
class Siege:
    """Service under attack, with honest traffic."""

    target: Target
    limit: Limit
    honest: Honest
    pids: frozenset[int]
    start_bytes: int
    results: list[Result] = field(default_factory=list)
    report: dict[str, object] = field(default_factory=dict)

    def worker_pids(self) -> frozenset[int]:
        return frozenset(each.pid for each in workers(self.target.parent))

    def check(self) -> None:
        """Check that no process has died or exceeds the memory."""
        assert self.worker_pids() == self.pids
        assert self.limit.kills() == 0
        if self.limit.folder is None:
            assert proportional_bytes(self.target.parent) <= MEMORY_BYTES


@pytest.fixture(scope="module")
def siege(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Siege]:
    grpc_port = free_port()
    with (
        memory_limit(MEMORY_BYTES) as limit,
        bentoml_serve(
            REPOSITORY / "zoo",
            tmp_path_factory.mktemp("hostile"),
            tracer=limit.command,
            LIMELIGHT_DEFAULT_MODEL=MODEL,
            LIMELIGHT_WORKERS="2",
            LIMELIGHT_GRPC_PORT=str(grpc_port),
        ) as server,
    ):
        target = Target(int(server.url.rpartition(":")[2]), server.process.pid, grpc_port)
        _warm_up(server.url)
        target.idle_cpu_s()
        honest = Honest(server.url, MODEL)
        pids = frozenset(each.pid for each in workers(target.parent))
        siege = Siege(target, limit, honest, pids, proportional_bytes(target.parent))
        honest.start()
        yield siege
        honest.stop()
        capture = request.config.pluginmanager.getplugin("capturemanager")
        assert capture is not None
        with capture.global_and_fixture_disabled():
            print(f"\n\n{table(siege.results)}\n\n{json.dumps(siege.report, indent=1)}")


def _warm_up(url: str) -> None:
    """Send honest requests, one by one and many at a time, until memory no longer grows by them."""

    def send(target: str, body: bytes) -> int:
        # Over a connection of its own, so that either worker gets some.
        return httpx.post(url + target, content=body, timeout=30).status_code

    bodies = [photo("PNG", 32), photo("JPEG", 512), photo("WEBP", 512), photo("PNG", 1024)]
    targets = ("/predict", "/explain", "/explain?format=png", "/explain?method=layercam")
    for _ in range(4):
        assert {send(target, body) for body in bodies for target in targets} == {200}
    large = photo("JPEG", 1500)
    many = [(target, large) for target in targets[:3] * 40]
    with ThreadPoolExecutor(32) as threads:
        statuses = set(threads.map(lambda each: send(*each), many))
    assert 200 in statuses
    assert statuses <= {200, 503}


def test_there_are_at_least_200_inputs() -> None:
    names = [str(each) for each in INPUTS]
    assert len(set(names)) == len(names)
    assert len(names) + len(ARTIFACTS) >= 200


@pytest.mark.parametrize("hostile", INPUTS, ids=str)
def test_input_is_answered_honestly_and_cheaply(
    siege: Siege, hostile: HttpInput | GrpcInput
) -> None:
    result = attack(siege.target, hostile)
    siege.results.append(result)
    assert not result.problems()
    siege.check()


def _largest() -> dict[str, HttpInput | GrpcInput]:
    """Return the input of each kind that sends most; nothing that waits, and no decoding of 1 s."""
    found: dict[str, tuple[int, HttpInput | GrpcInput]] = {}
    for each in INPUTS:
        if each.kind not in (*EXPENSIVE, "slow") and getattr(each, "requests", 1) == 1:
            made = each.make()
            size = len(made) if isinstance(made, bytes) else sum(map(len, made))
            found[each.kind] = max(
                found.get(each.kind, (0, each)), (size, each), key=lambda it: it[0]
            )
    return {kind: each for kind, (_, each) in found.items()}


def test_repeated_inputs_leave_nothing_behind(siege: Siege) -> None:
    kept = {}
    for kind, hostile in _largest().items():
        attack(siege.target, hostile)
        before_bytes = proportional_bytes(siege.target.parent)
        for _ in range(_REPEATS):
            attack(siege.target, hostile)
        kept_bytes = proportional_bytes(siege.target.parent) - before_bytes
        if kept_bytes > siege.start_bytes * (_GROWTH - 1):
            kept[kind] = f"{kept_bytes / 1e6:.0f} MB after {_REPEATS} times {hostile.name}"
    assert not kept
    siege.check()


@pytest.mark.parametrize(
    ("method", "streams", "size"),
    [
        ("ModelInfer", 60, 9_000_000),
        ("ModelStreamInfer", 60, 9_000_000),
        ("ModelInfer", 4_000, 100_000),
    ],
)
def test_unfinished_grpc_messages_are_not_hoarded(
    siege: Siege, method: str, streams: int, size: int
) -> None:
    assert siege.target.grpc_port is not None
    client = Http2(siege.target.grpc_port)
    unfinished = struct.pack(">BI", 0, size) + bytes(size - 1)
    calls = {client.call(method, unfinished) for _ in range(streams)}
    # Calls have LIMELIGHT_TIMEOUT_S. Streams may rest, and must not hold more memory.
    end_s = time.monotonic() + (10 if method == "ModelStreamInfer" else 30)
    most_bytes = 0
    while time.monotonic() < end_s and not (client.closed or calls <= client.ended):
        client.run(1)
        most_bytes = max(most_bytes, proportional_bytes(siege.target.parent))
    ended = client.closed or calls <= client.ended
    client.close()
    assert most_bytes - siege.start_bytes < _HOARDED_BYTES
    assert ended or method == "ModelStreamInfer"
    siege.check()


def test_unfinished_uploads_are_not_hoarded(siege: Siege) -> None:
    part = post("/predict", bytes(9_000_000), length=9_900_000)

    def begin(_: int) -> socket.socket:
        link = socket.create_connection(("127.0.0.1", siege.target.port), 5)
        with suppress(OSError):  # rejected while it is sent, as most are
            link.sendall(part)
        return link

    with ThreadPoolExecutor(64) as threads:
        links = list(threads.map(begin, range(200)))
    siege.check()
    for each in links:
        each.close()


def test_64_expensive_uploads_at_once_kill_nobody(siege: Siege) -> None:
    expensive = [each for each in INPUTS if each.kind in EXPENSIVE]
    many = (expensive * 64)[:64]
    with ThreadPoolExecutor(64) as threads:
        results = list(threads.map(lambda each: attack(siege.target, each), many))
    answers = {answer for each in results for answer in each.answers}
    assert answers <= {"200", "413", "422", "503"}, answers
    siege.check()


@pytest.mark.parametrize("hostile", ARTIFACTS, ids=str)
def test_artifact_is_loaded_or_refused(tmp_path: Path, hostile: ArtifactInput) -> None:
    folder = hostile.write(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", _LOAD, str(folder)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=_LOADING_S,
        check=False,
    )
    wanted = {True: (0,), False: (_REFUSED,), None: (0, _REFUSED)}[hostile.works]
    assert done.returncode in wanted, done.stdout + done.stderr[-2000:]
    peak_kb, *said = done.stdout.split()
    assert int(peak_kb) < 500_000
    assert done.returncode == 0 or said


def test_service_is_as_before_the_attack(siege: Siege) -> None:
    siege.target.idle_cpu_s()
    end_s = time.monotonic() + 60  # for connections that linger
    while time.monotonic() < end_s:
        now_bytes = proportional_bytes(siege.target.parent)
        if now_bytes <= siege.start_bytes * _GROWTH:
            break
        time.sleep(1)
    honest = siege.honest
    siege.report = {
        "memory limit": siege.limit.description,
        "memory at the start, MB": siege.start_bytes // 10**6,
        "memory at the end, MB": now_bytes // 10**6,
        "peak with page cache, MB": (siege.limit.peak_bytes() or 0) // 10**6,
        "honest requests": len(honest.seconds),
        "honest failures": dict(honest.failures),
        "honest p99, s": round(honest.p99_s(), 3),
    }
    siege.check()
    assert now_bytes <= siege.start_bytes * _GROWTH
    assert not honest.failures
    assert honest.p99_s() < 1
