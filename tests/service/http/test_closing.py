"""Closing of connections: no response is lost, and clients that have left are noticed."""

import asyncio
import shutil
import socket
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.service.http.listening import until
from tests.service.http.wire import Service, serving
from tests.service.test_app import PNG
from tests.serving_kit import REPOSITORY

pytestmark = pytest.mark.asyncio(loop_scope="module")
HEAD = b"POST /predict HTTP/1.1\r\nHost: a\r\n"
UPLOAD = HEAD + b"Content-Length: %d\r\n\r\n" % len(PNG) + PNG
TOO_LARGE = 5_000_000


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service(zoo: Path) -> AsyncIterator[Service]:
    async with serving(zoo, max_bytes=100_000, linger_s=2) as service:
        yield service


@pytest.fixture
def gate(service: Service, monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Hold every forward pass until the event is set."""
    batcher, event = service.served.registry.classifiers["colours"].batcher, threading.Event()
    run = batcher._runner._run

    def wait(*arguments: Any) -> Any:
        assert event.wait(10)
        return run(*arguments)

    monkeypatch.setattr(batcher._runner, "_run", wait)
    return event


async def test_urllib_gets_the_rejection_of_an_upload(service: Service) -> None:
    def status() -> int:
        url = f"http://127.0.0.1:{service.port}/predict"
        try:
            urllib.request.urlopen(url, data=bytes(TOO_LARGE), timeout=10)
        except urllib.error.HTTPError as error:
            error.close()
            return error.code
        return 200

    for _ in range(10):
        assert await asyncio.to_thread(status) == 413


NODE = """
const http = require('http');
const options = {method: 'POST', port: +process.argv[1], path: '/predict', agent: false,
                 headers: {'Content-Length': +process.argv[2], Connection: 'close'}};
const request = http.request(options, (response) => { console.log(response.statusCode); });
request.on('error', (error) => { console.log(error.code); });
request.end(Buffer.alloc(+process.argv[2]));
"""


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
async def test_node_gets_the_rejection_of_an_upload(service: Service) -> None:
    command = ["node", "-e", NODE, str(service.port), str(TOO_LARGE)]
    for _ in range(2):
        done = await asyncio.to_thread(
            subprocess.run, command, check=True, capture_output=True, text=True
        )
        assert done.stdout.strip() == "413"


@pytest.mark.parametrize(
    "head",
    [
        HEAD + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % TOO_LARGE,
        b"POST / HTTP/1.1\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % TOO_LARGE,
        HEAD + b"X: " + b"a" * 100_000,
        b"\0",
    ],
    ids=["too large", "wrong method", "large head", "malformed"],
)
async def test_response_is_read_after_everything_is_sent(service: Service, head: bytes) -> None:
    """Many clients do not read before they have sent their body."""

    def answer() -> bytes:
        with socket.create_connection(("127.0.0.1", service.port), 10) as connection:
            connection.sendall(head)
            for _ in range(TOO_LARGE // 100_000):
                connection.sendall(bytes(100_000))
            connection.shutdown(socket.SHUT_WR)
            return b"".join(iter(lambda: connection.recv(65_536), b""))

    for _ in range(10):
        received = await asyncio.to_thread(answer)
        assert received.startswith(b"HTTP/1.1 4")
        assert b'"code":' in received
    await until(lambda: not service.connections)


async def test_lingering_ends_with_its_time_limit(service: Service) -> None:
    wire = await service.connect()
    wire.send(HEAD, b"Connection: close\r\nContent-Length: %d\r\n\r\n" % TOO_LARGE)
    assert (await wire.answer()).status == 413
    assert await wire.closed(0.5)  # for writing
    await until(lambda: not service.connections, 4)


async def test_client_that_closes_its_side_gets_its_response(
    service: Service, gate: threading.Event
) -> None:
    wire = await service.connect()
    wire.send(UPLOAD, UPLOAD, b"GET /livez HTTP/1.1\r\n")
    wire.end()
    await until(lambda: service.connections and service.connections[0].is_answering())
    await asyncio.sleep(0.3)  # longer than the look for clients that have left
    gate.set()
    for _ in range(2):
        answer = await wire.answer()
        assert answer.status == 200
        assert b'"label"' in answer.body
    assert await wire.closed()


async def test_client_that_closes_in_its_body_has_left(service: Service) -> None:
    wire = await service.connect()
    wire.send(UPLOAD[:-10])
    await until(lambda: service.served.application._in_flight)
    wire.end()
    assert await wire.closed()
    await until(lambda: not service.served.application._in_flight)


async def test_client_that_leaves_is_noticed(service: Service, gate: threading.Event) -> None:
    batcher = service.served.registry.classifiers["colours"].batcher
    first, second = await service.connect(), await service.connect()
    first.send(UPLOAD)
    await until(lambda: batcher.admission.admitted == 1)
    second.send(UPLOAD, UPLOAD)
    await until(lambda: batcher.depth == 1)
    second.close()
    await until(lambda: len(service.connections) == 1)
    gate.set()
    assert (await first.answer()).status == 200
    first.close()
    await until(lambda: not service.connections)


async def test_refused_upload_that_waits_for_100_continue_closes_the_connection(
    service: Service,
) -> None:
    wire = await service.connect()
    wire.send(HEAD, b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % TOO_LARGE)
    answer = await wire.answer()
    assert (answer.status, answer.headers["connection"]) == (413, "close")
    assert await wire.closed()


async def _run(*command: str) -> str:
    done: Any = await asyncio.to_thread(
        subprocess.run, command, check=True, capture_output=True, text=True, cwd=REPOSITORY
    )
    return str(done.stdout)


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
async def test_curl_that_offers_http2_is_answered(service: Service, tmp_path: Path) -> None:
    image = tmp_path / "image.png"
    image.write_bytes(PNG)
    url = f"http://127.0.0.1:{service.port}/predict"
    command = ["curl", "-sS", "--http2", "--data-binary", f"@{image}", url, "--next", "-sS", url]
    assert '"label"' in await _run(*command[:6])
