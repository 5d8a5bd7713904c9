"""Worker crashes and shutdown: every accepted request is answered."""

import json
import os
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from http.client import HTTPException
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.service.http.test_request_body import begin_upload, connect
from tests.service.http.test_routes import PNG
from tests.service.telemetry.scraping import find, samples
from tests.serving_kit import Server, bentoml_serve

DRAIN_S = 3.0


def until(condition: Callable[[], Any], timeout_s: float, what: str) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
        time.sleep(0.02)


def workers(server: Server) -> set[int]:
    parent = server.process.pid
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return {int(pid) for pid in children if "service.worker" in _command(pid)}


def _command(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:  # it is gone
        return ""


def gauge(server: Server, name: str) -> float:
    return find(samples(server), name)


class Visitors:
    """Client that sends requests continuously, each over a new connection."""

    def __init__(self, server: Server, path: str = "/predict") -> None:
        self.outcomes: Counter[str] = Counter()
        self._server, self._path = server, path
        self._leaving = threading.Event()
        self._thread = threading.Thread(target=self._visit)

    def __enter__(self) -> "Visitors":
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._leaving.set()
        self._thread.join()

    def _visit(self) -> None:
        while not self._leaving.is_set():
            # Cheap, because the client shares the service's cores.
            connection = connect(self._server, 10)
            try:
                connection.request("POST", self._path, PNG)
                self.outcomes[str(connection.getresponse().status)] += 1
            except ConnectionRefusedError:
                self.outcomes["refused"] += 1
                time.sleep(0.02)
            except (OSError, HTTPException) as error:
                self.outcomes[repr(error)] += 1
            finally:
                connection.close()


@pytest.fixture(scope="module")
def in_a_container(zoo: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Start a service in container mode, where BentoML does not replace workers."""
    with bentoml_serve(
        zoo,
        tmp_path_factory.mktemp("container"),
        BENTOML_CONTAINERIZED="true",
        LIMELIGHT_WORKERS="2",
        LIMELIGHT_DRAIN_S=str(DRAIN_S),
    ) as server:
        yield server


@pytest.fixture(scope="module")
def patient(zoo: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Start a service with a long drain and a long timeout."""
    with bentoml_serve(
        zoo,
        tmp_path_factory.mktemp("patient"),
        LIMELIGHT_WORKERS="1",
        LIMELIGHT_DRAIN_S="15",
        LIMELIGHT_TIMEOUT_S="15",
    ) as server:
        yield server


def test_a_killed_worker_is_replaced_while_the_other_answers(in_a_container: Server) -> None:
    server = in_a_container
    until(lambda: gauge(server, "limelight_workers") == 2, 10, "two workers")
    before, deaths = workers(server), gauge(server, "limelight_worker_deaths")
    assert len(before) == 2
    with Visitors(server) as visitors:
        until(lambda: visitors.outcomes["200"] >= 5, 10, "answers")
        answered = visitors.outcomes["200"]
        os.kill(before.pop(), signal.SIGKILL)
        killed = time.monotonic()
        until(lambda: gauge(server, "limelight_workers") == 1, 5, "a gauge without the dead")
        assert visitors.outcomes["200"] > answered
        until(lambda: gauge(server, "limelight_workers") == 2, 20, "a replacement that serves")
        took_s = time.monotonic() - killed
    assert len(workers(server)) == 2
    assert workers(server) > before
    assert gauge(server, "limelight_worker_deaths") == deaths + 1
    # Only the request that the killed worker was processing is lost.
    lost = visitors.outcomes.total() - visitors.outcomes["200"]
    assert lost <= 1, visitors.outcomes
    assert took_s < 5 * slowness()
    assert gauge(server, "limelight_ready") == 1


def slowness() -> float:
    """Return a factor for time limits, from the load of the machine."""
    load = os.getloadavg()[0] / (os.cpu_count() or 1)
    return max(1.0, load) * 2


def unready(*clients: httpx.Client) -> bool:
    """Return whether all clients get 503: each worker receives the signal by itself."""
    return all(client.get("/readyz").status_code == 503 for client in clients)


def test_sigterm_drains_without_losing_accepted_requests(in_a_container: Server) -> None:
    server = in_a_container
    halfway = connect(server, 20)
    begin_upload(halfway, len(PNG))
    halfway.send(PNG[:50])
    kept = httpx.Client(base_url=server.url)
    fresh = httpx.Client(base_url=server.url, limits=httpx.Limits(max_keepalive_connections=0))
    assert "connection" not in kept.get("/readyz").headers
    with Visitors(server) as visitors, Visitors(server, "/explain") as more:
        until(lambda: visitors.outcomes["200"] and more.outcomes["200"], 10, "answers")
        server.process.send_signal(signal.SIGTERM)
        sent = time.monotonic()
        until(lambda: unready(fresh, fresh, fresh, fresh, kept), 3, "unready")
        unready_answer = kept.get("/readyz")
        assert unready_answer.json()["code"] == "draining"
        assert int(unready_answer.headers["retry-after"]) >= 1
        # Answered during the drain, with `Connection: close`.
        for path in ("/predict", "/livez", "/nowhere"):
            answer = fresh.post(path, content=PNG)
            assert answer.headers["connection"] == "close"
            assert answer.status_code == {"/predict": 200, "/livez": 405, "/nowhere": 404}[path]
        assert fresh.get("/healthz").json() == {"status": "alive", "ready": False}
        until(lambda: visitors.outcomes["refused"], 10, "refused connections")
        assert time.monotonic() - sent >= DRAIN_S
        assert server.process.poll() is None  # because a request is in flight
        halfway.send(PNG[50:])
        response = halfway.getresponse()
        assert response.status == 200
        assert response.headers["connection"] == "close"
        assert b'"colours"' in response.read()
        until(lambda: server.process.poll() is not None, 10, "the end")
    assert server.process.returncode == 0
    for outcomes in (visitors.outcomes, more.outcomes):
        assert set(outcomes) == {"200", "refused"}
    assert "Traceback" not in server.log()
    for client in (kept, fresh, halfway):
        client.close()


def test_single_worker_is_replaced_after_it_is_killed(patient: Server) -> None:
    (only,) = workers(patient)
    os.kill(only, signal.SIGKILL)
    killed = time.monotonic()
    # New connections wait meanwhile, because the parent process holds the socket.
    assert httpx.post(f"{patient.url}/predict", content=PNG, timeout=20).status_code == 200
    assert time.monotonic() - killed < 5 * slowness()
    assert workers(patient).isdisjoint({only})
    assert gauge(patient, "limelight_workers") == 1


def test_sigint_ends_without_a_drain_and_a_second_one_without_waiting(patient: Server) -> None:
    halfway = connect(patient, 20)
    begin_upload(halfway, len(PNG))
    halfway.send(PNG[:50])
    address = (halfway.host, halfway.port)
    patient.process.send_signal(signal.SIGINT)
    try:
        until(lambda: refuses(address), 8, "refused connections")
        assert patient.process.poll() is None
        patient.process.send_signal(signal.SIGINT)
        until(lambda: patient.process.poll() is not None, 5, "the end")
        response = halfway.getresponse()
        # The second signal aborts the request.
        assert (response.status, json.load(response)["code"]) == (503, "draining")
        assert "Traceback" not in patient.log()
    finally:
        halfway.close()


def refuses(address: tuple[str, int]) -> bool:
    try:
        with socket.create_connection(address, timeout=5):
            return False
    except ConnectionRefusedError:
        return True
