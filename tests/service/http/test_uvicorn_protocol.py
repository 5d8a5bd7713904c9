"""Early rejection of requests and writing of answers, over a real uvicorn server."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from service.http import messages
from service.http.messages import Response
from service.request_context import RequestContext
from service.settings import Settings
from tests.service.http.listening import listening
from tests.service.test_app import PNG, Served

Answer = tuple[int, dict[str, str], bytes]


class Client:
    """HTTP client with a single connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def ask(self, target: str, body: bytes | None = PNG, **headers: str) -> Answer:
        """Send a request and read its answer; a body of None sends only the head."""
        self.send(target, body, **headers)
        return await self.answer()

    def send(self, target: str, body: bytes | None = PNG, **headers: str) -> None:
        fields = {"Host": "limelight", "Content-Length": str(len(PNG)), **headers}
        lines = [f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items()]
        head = f"POST {target} HTTP/1.1\r\n{''.join(lines)}\r\n"
        self.write(head.encode() + (body or b""))

    def write(self, data: bytes) -> None:
        self._writer.write(data)

    async def answer(self) -> Answer:
        async with asyncio.timeout(10):
            head = (await self._reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")[:-2]
            headers = dict(line.split(": ", 1) for line in head[1:])
            body = await self._reader.readexactly(int(headers["content-length"]))
        return int(head[0].split()[1]), headers, body

    async def closed(self) -> bool:
        """Return whether the server closes the connection without sending more."""
        async with asyncio.timeout(10):
            return await self._reader.read() == b""

    def close(self) -> None:
        self._writer.close()


class Full:
    """Service whose queue of four is half full, so that it rejects explanations."""

    def __init__(self, served: Served, port: int) -> None:
        self.served, self._port = served, port
        self._classifier = served.registry.classifiers["colours"]
        self.places = ExitStack()
        self.delegated: list[str] = []
        self.take(2)

    def take(self, number: int) -> None:
        for _ in range(number):
            self.places.enter_context(
                self._classifier.batcher.admission.admit(RequestContext(), low_priority=False)
            )

    @property
    def admitted(self) -> int:
        return self._classifier.batcher.admission.admitted

    async def connect(self) -> Client:
        return Client(*await asyncio.open_connection("127.0.0.1", self._port))


@pytest.fixture
async def full(zoo: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Full]:
    settings = Settings(models=zoo, default_model="colours", device="cpu", max_queued=4)
    served = Served(settings)
    async with listening(served) as (_, port):
        full = Full(served, port)
        http = served.application._http

        async def recording(scope: Any, receive: Any, send: Any) -> None:
            full.delegated.append(scope["path"])
            await http(scope, receive, send)

        monkeypatch.setattr(served.application, "_http", recording)
        with full.places:
            yield full


async def test_overload_is_rejected_before_the_body_is_read(full: Full) -> None:
    client = await full.connect()
    status, headers, body = await client.ask("/explain", None, X_Request_Id="mine")
    assert (status, full.delegated) == (503, [])
    assert (headers["x-request-id"], headers["retry-after"]) == ("mine", "1")
    # The answer is the same as that of the application.
    other = await full.served.http.post("/explain", content=PNG)
    assert full.delegated == ["/explain"]
    assert (other.status_code, other.content) == (503, body)
    dated = {"date", "server"}
    assert set(headers) - dated == set(other.headers) - dated
    assert headers["content-type"] == other.headers["content-type"]
    text = (await full.served.http.get("/metrics")).text
    assert 'limelight_rejected_total{reason="overloaded"} 2.0' in text
    client.close()


async def test_connection_of_a_rejected_request_is_reused(full: Full) -> None:
    client = await full.connect()
    for _ in range(3):
        assert (await client.ask("/explain"))[0] == 503
    assert full.delegated == []
    status, headers, _ = await client.ask("/predict")
    assert (status, full.delegated) == (200, ["/predict"])
    assert "connection" not in headers
    client.close()


async def test_body_sent_after_a_rejection_is_discarded(full: Full) -> None:
    client = await full.connect()
    assert (await client.ask("/explain", None))[0] == 503
    client.write(PNG)
    assert (await client.ask("/predict"))[0] == 200
    client.close()


async def test_predictions_are_rejected_only_if_the_queue_is_full(full: Full) -> None:
    client = await full.connect()
    assert (await client.ask("/predict"))[0] == 200
    full.take(2)
    assert (await client.ask("/predict"))[0] == 503
    assert (await client.ask("/predict?model=digits"))[0] == 200
    assert full.delegated == ["/predict", "/predict"]
    client.close()


async def test_requests_that_arrive_together_count_one_after_the_other(full: Full) -> None:
    """All heads are parsed before the task of the first request begins."""
    clients = [await full.connect() for _ in range(5)]
    for client in clients:
        client.send("/predict")
    answers = [await client.answer() for client in clients]
    assert sorted(status for status, *_ in answers) == [200, 200, 503, 503, 503]
    assert full.delegated == ["/predict"] * 2
    assert full.admitted == 2
    for client in clients:
        client.close()


async def test_body_that_is_on_its_way_does_not_occupy_the_queue(full: Full) -> None:
    client = await full.connect()
    client.send("/predict", None)
    async with asyncio.timeout(10):
        while not full.delegated:
            await asyncio.sleep(0.01)
    assert full.admitted == 2
    client.write(PNG)
    assert (await client.answer())[0] == 200
    assert full.admitted == 2
    client.close()


@pytest.mark.parametrize("target", ["/predict?colour=red", "/explain?method=nonsense"])
async def test_invalid_request_leaves_the_queue(full: Full, target: str) -> None:
    full.places.pop_all().close()
    client = await full.connect()
    assert (await client.ask(target))[0] == 422
    assert full.admitted == 0
    client.close()


@pytest.mark.parametrize("digits", [10, 5_000])
async def test_number_with_too_many_digits_is_answered(full: Full, digits: int) -> None:
    """Python refuses to read more than 4,300 digits."""
    full.places.pop_all().close()
    client = await full.connect()
    answer = await client.ask(f"/explain?method=occlusion&evaluations={'1' * digits}")
    assert answer[0] == 422
    assert b'"code":"invalid_parameter"' in answer[2]
    assert full.admitted == 0
    client.close()


async def test_fault_in_the_check_of_a_head_takes_the_normal_path(
    full: Full, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise RuntimeError("a fault")

    full.places.pop_all().close()
    monkeypatch.setattr("service.app.masked_images", fail)
    client = await full.connect()
    assert (await client.ask("/predict"))[0] == 200
    assert "cannot be checked by its head" in caplog.text
    client.close()


async def test_fault_of_the_parser_closes_the_connection(
    full: Full, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*arguments: object) -> None:
        raise RuntimeError("a fault")

    monkeypatch.setattr("service.http.uvicorn_protocol.Protocol._start_asgi_task", fail)
    client = await full.connect()
    client.send("/predict")
    with contextlib.suppress(ConnectionError):
        assert await client.closed()
    assert "cannot be answered is closed" in caplog.text
    client.close()


async def test_deadline_that_cannot_be_met_is_rejected_before_the_body_is_read(full: Full) -> None:
    full.served.registry.classifiers["colours"].batcher.admission.seconds_per_image = 0.2
    client = await full.connect()
    status, _, body = await client.ask("/predict", X_Timeout_Ms="500")
    assert (status, full.delegated) == (503, [])
    assert b'"code":"deadline"' in body
    assert (await client.ask("/predict", X_Timeout_Ms="5000"))[0] == 200
    client.close()


@pytest.mark.parametrize(
    ("target", "headers"),
    [
        ("/explain", {"Content_Type": "multipart/form-data; boundary=x"}),
        ("/explain?model=nobody", {}),
        ("/explain", {"X_Timeout_Ms": "soon"}),
        ("/explain", {"Expect": "100-continue"}),
        ("/models", {}),
    ],
)
async def test_unusual_requests_are_left_to_the_application(
    full: Full, target: str, headers: dict[str, str]
) -> None:
    client = await full.connect()
    status, _, _ = await client.ask(target, None if "Expect" in headers else PNG, **headers)
    assert status >= 400
    assert full.delegated == [target.partition("?")[0]]
    client.close()


@pytest.mark.parametrize(("target", "expected"), [("/predict", 200), ("/explain", 503)])
async def test_connection_close_is_echoed_and_honoured(
    full: Full, target: str, expected: int
) -> None:
    client = await full.connect()
    status, headers, _ = await client.ask(target, Connection="close")
    assert (status, headers["connection"]) == (expected, "close")
    assert await client.closed()
    client.close()


async def test_pipelined_requests_are_answered_in_order(full: Full) -> None:
    client = await full.connect()
    for target in ("/predict", "/explain", "/predict?top_k=1"):
        client.send(target)
    answers = [await client.answer() for _ in range(3)]
    assert [status for status, _, _ in answers] == [200, 503, 200]
    assert b'"scores":[{' in answers[2][2]
    client.close()


async def test_header_with_a_line_break_is_rejected(
    full: Full, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def livez(exchange: object) -> Response:
        return Response(b"{}", headers=[(b"x-name", b"a\r\nset-cookie: b")])

    monkeypatch.setitem(full.served.application._routes["/livez"], "GET", livez)
    client = await full.connect()
    client.write(b"GET /livez HTTP/1.1\r\nHost: limelight\r\n\r\n")
    status, headers, _ = await client.answer()
    assert (status, "set-cookie" in headers) == (500, False)
    assert "a header has a line break in it" in caplog.text
    client.close()


async def test_head_request_is_answered_without_a_body(full: Full) -> None:
    client = await full.connect()
    client.write(b"HEAD /livez HTTP/1.1\r\nHost: limelight\r\nConnection: close\r\n\r\n")
    async with asyncio.timeout(10):
        answer = await client._reader.read()
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert answer.endswith(b"\r\n\r\n")
    assert b"content-length: 18\r\n" in answer
    client.close()


async def test_a_request_has_one_context_from_its_head_to_its_answer(
    full: Full, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One id, one look-up of the model, and one check before the one that admits the request."""
    ids: list[str] = []
    made, registry = messages.choose_id, full.served.registry
    admission = registry.classifiers["colours"].batcher.admission
    lookups, checks = [], []
    look_up, check = registry.served, admission.rejection

    def choose_id(given: bytes | None) -> str:
        ids.append(made(given))
        return ids[-1]

    def served(name: str | None, version: str | None = None) -> Any:
        lookups.append((name, version))
        return look_up(name, version)

    def rejection(*arguments: Any, **options: Any) -> Any:
        checks.append(arguments[0])
        return check(*arguments, **options)

    monkeypatch.setattr(messages, "choose_id", choose_id)
    monkeypatch.setattr(registry, "served", served)
    monkeypatch.setattr(admission, "rejection", rejection)
    client = await full.connect()
    status, headers, _ = await client.ask("/predict")
    assert status == 200
    assert ids == [headers["x-request-id"]]
    assert lookups == [(None, None)]
    assert [context.id for context in checks] == ids
    # The body arrives late: the check of the head is not repeated before waiting for the body.
    client.send("/predict", None)
    await asyncio.sleep(0.05)
    client.write(PNG)
    assert (await client.answer())[0] == 200
    assert (len(ids), len(lookups), len(checks)) == (2, 2, 3)
    assert checks[1] is checks[2]
    client.close()
