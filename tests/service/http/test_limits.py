"""Limits of one worker, and the release of reservations by requests that fail or disconnect."""

import asyncio
import functools
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.request_context import RequestContext
from service.settings import Settings
from tests.service.http.listening import listening, until
from tests.service.test_app import LARGE, PNG, Served, break_engine


def settings(zoo: Path, **changes: Any) -> Settings:
    return Settings(models=zoo, default_model="colours", device="cpu", **changes)


class Upload:
    """Request whose body arrives step by step."""

    def __init__(self, served: Served, body: bytes, path: str = "/predict", **headers: str) -> None:
        self._parts: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._body = body
        self.sent: list[Any] = []
        scope = {
            "type": "http",
            "method": "POST",
            "path": path,
            "query_string": b"",
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        }

        async def send(message: Any) -> None:
            self.sent.append(message)

        application = served.application
        self.task = asyncio.create_task(application(scope, self._parts.get, send))

    def arrive(self, start: int, end: int | None = None) -> None:
        part = {"type": "http.request", "body": self._body[start:end], "more_body": end is not None}
        self._parts.put_nowait(part)

    def leave(self) -> None:
        self._parts.put_nowait({"type": "http.disconnect"})

    def cancel(self) -> None:
        self.task.cancel()

    async def status(self) -> int:
        await asyncio.wait_for(self.task, 10)
        return int(self.sent[0]["status"])


def held(served: Served) -> tuple[int, int, int]:
    """Return the reserved bytes, the admitted images and the requests in flight."""
    batcher = served.registry.classifiers["colours"].batcher
    application = served.application
    return (
        application._upload_budget.reserved_bytes,
        batcher.admission.admitted,
        application._in_flight,
    )


@pytest.mark.parametrize("declared", [True, False])
async def test_uploads_beyond_the_upload_budget_are_rejected(zoo: Path, declared: bool) -> None:
    async with Served(settings(zoo, max_queued_bytes=len(LARGE) + 100)) as served:
        headers = {"content-length": str(len(LARGE))} if declared else {}
        first = Upload(served, LARGE, **headers)
        first.arrive(0, len(LARGE) - 1)
        await until(lambda: served.application._upload_budget.reserved_bytes >= len(LARGE) - 1)
        second = await served.http.post("/predict", content=LARGE)
        assert (second.status_code, second.json()["code"]) == (503, "overloaded")
        assert int(second.headers["retry-after"]) >= 1
        first.arrive(len(LARGE) - 1)
        assert await first.status() == 200
        assert (await served.http.post("/predict", content=LARGE)).status_code == 200
        assert held(served) == (0, 0, 0)


async def test_single_upload_is_accepted_beyond_the_upload_budget(zoo: Path) -> None:
    async with Served(settings(zoo, max_queued_bytes=1)) as served:
        assert (await served.http.post("/predict", content=LARGE)).status_code == 200


async def test_reservations_are_released_after_every_kind_of_error(
    zoo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Served(settings(zoo, max_bytes=len(LARGE), max_queued=1)) as served:
        form = {"content-type": "multipart/form-data; boundary=x"}
        requests: list[tuple[str, bytes, dict[str, str], int]] = [
            ("/predict", b"", {}, 400),
            ("/predict", b"nonsense", form, 400),
            ("/predict?model=cats", PNG, {}, 404),
            ("/predict", LARGE + b" ", {}, 413),
            ("/predict", PNG, {"content-type": "text/plain"}, 415),
            ("/predict", PNG[:30], {}, 422),
            ("/predict?top_k=9", PNG, {}, 422),
            ("/explain?target=purple", PNG, {}, 422),
            ("/predict", PNG, {"x-timeout-ms": "x"}, 422),
        ]
        for path, body, headers, status in requests:
            response = await served.http.post(path, content=body, headers=headers)
            assert response.status_code == status
            assert held(served) == (0, 0, 0)
        with served.registry.classifiers["colours"].batcher.admission.admit(
            RequestContext(), low_priority=False
        ):
            assert (await served.http.post("/predict", content=PNG)).status_code == 503
        for finish in (Upload.leave, Upload.cancel):
            upload = Upload(served, PNG)
            upload.arrive(0, 20)
            await until(lambda: held(served) == (20, 0, 1))
            finish(upload)
            await asyncio.wait([upload.task])
            assert upload.sent == []
            assert held(served) == (0, 0, 0)
        late = Upload(served, PNG, **{"x-timeout-ms": "30"})
        late.arrive(0, 20)
        assert await late.status() == 408
        break_engine(served, monkeypatch, None)
        assert (await served.http.post("/predict", content=PNG)).status_code == 500
        assert held(served) == (0, 0, 0)


async def test_explanations_are_rejected_before_predictions(zoo: Path) -> None:
    async with Served(settings(zoo, max_queued=4)) as served:
        classifier = served.registry.classifiers["colours"]
        with (
            classifier.batcher.admission.admit(RequestContext(), low_priority=False),
            classifier.batcher.admission.admit(RequestContext(), low_priority=False),
        ):
            for path in ("/explain", "/explain?format=png"):
                shed = await served.http.post(path, content=PNG)
                assert (shed.status_code, shed.json()["code"]) == (503, "overloaded")
                assert int(shed.headers["retry-after"]) >= 1
            assert (await served.http.post("/predict", content=PNG)).status_code == 200
        assert (await served.http.post("/explain", content=PNG)).status_code == 200
        assert held(served) == (0, 0, 0)


class Gated:
    """Fake network that waits at a gate and records the sizes of its batches."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.images: list[int] = []

    def run(self, names: Sequence[str], feed: dict[str, Any]) -> list[Any]:
        self.images.append(len(feed["images"]))
        assert self.gate.wait(10)
        shapes = ((self.images[-1], *([] if name == "ood_score" else [3])) for name in names)
        return [np.full(shape, 1 / 3, np.float32) for shape in shapes]


async def test_requests_of_disconnected_clients_are_not_computed(
    zoo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs with uvicorn, because the service reads uvicorn's state of the connection."""
    served = Served(settings(zoo))
    async with listening(served) as (server, port):
        network = Gated()
        classifier = served.registry.classifiers["colours"]
        monkeypatch.setattr(classifier.engine._sessions, "first", network)
        head = f"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: {len(PNG)}\r\n\r\n".encode()

        def waiting(number: int) -> bool:
            return classifier.batcher.depth == number

        clients = []
        for number in range(4):  # one is being computed, and three are waiting
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(head + PNG)
            clients.append((reader, writer))
            await until(lambda: network.images)
            await until(functools.partial(waiting, number))
        for _, writer in clients[1:3]:
            writer.close()
        await until(lambda: len(server.server_state.connections) == 2)
        network.gate.set()
        for reader, _ in (clients[0], clients[3]):
            assert (await asyncio.wait_for(reader.readline(), 10)).startswith(b"HTTP/1.1 200")
        assert network.images == [1, 1]
        await until(lambda: held(served) == (0, 0, 0))
        text = (await served.http.get("/metrics")).text
        assert 'limelight_rejected_total{reason="client_gone"} 2.0' in text
        for _, writer in clients:
            writer.close()
