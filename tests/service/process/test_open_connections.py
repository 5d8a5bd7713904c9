"""Connections of a service that may open only a few files."""

import contextlib
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from tests.service.test_app import PNG
from tests.serving_kit import Server, bentoml_serve


@pytest.fixture(scope="module")
def small(zoo: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("small")
    few_files = ("sh", "-c", 'ulimit -n 64; exec "$@"', "sh")
    with bentoml_serve(
        zoo, folder, tracer=few_files, LIMELIGHT_WORKERS="2", LIMELIGHT_DEVICE="cpu"
    ) as server:
        yield server


@contextmanager
def connections(server: Server, number: int, content: bytes) -> Iterator[list[socket.socket]]:
    """Open connections that all send `content`, and keep them."""
    address = urlsplit(server.url)
    with ExitStack() as stack:
        opened = []
        for _ in range(number):
            one = socket.create_connection((str(address.hostname), address.port or 0), 5)
            opened.append(stack.enter_context(one))
            with contextlib.suppress(ConnectionError):
                one.sendall(content)
        yield opened


@pytest.mark.parametrize(
    "content", [b"", b"GET /livez HTTP/1.1\r\nX: ", b"GET /livez HTTP/1.1\r\n\r\n"]
)
def test_idle_connections_are_closed_to_make_room(small: Server, content: bytes) -> None:
    with connections(small, 200, content):
        for _ in range(10):
            started = time.monotonic()
            assert httpx.get(f"{small.url}/livez").status_code == 200
            assert httpx.post(f"{small.url}/predict", content=PNG).status_code == 200
            assert time.monotonic() - started < 2


def test_health_is_answered_while_busy_connections_take_every_place(small: Server) -> None:
    head = (
        b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\nExpect: 100-continue\r\n\r\n"
    )
    with ExitStack() as stack:
        rejected = 0
        while rejected < 10:  # until both workers are full
            (upload,) = stack.enter_context(connections(small, 1, head))
            rejected += upload.recv(1000).startswith(b"HTTP/1.1 503")
        for path in ("/livez", "/readyz", "/healthz") * 3:
            assert httpx.get(small.url + path).status_code == 200
        answer = httpx.post(f"{small.url}/predict", content=PNG)
        assert (answer.status_code, answer.json()["code"]) == (503, "overloaded")
        assert answer.headers["connection"] == "close"
    assert httpx.post(f"{small.url}/predict", content=PNG).status_code == 200


def test_log_says_that_few_files_mean_few_connections(small: Server) -> None:
    log = small.log()
    assert "because of its limit of open files: raise it (ulimit -n)" in log
    assert "Traceback" not in log
    assert "cannot be accepted" not in log
