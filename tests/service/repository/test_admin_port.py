"""Management port: clients that leave or send nonsense leave no traceback in the log."""

import logging
import socket
import struct
import time
from collections.abc import Iterator
from http.client import HTTPResponse

import pytest

from service.repository.admin_port import AdminPort
from service.repository.control import Control
from tests.service.oip.kit import free_port
from tests.service.repository.test_coordinator import Bench
from tests.serving_kit import write_artifact

HEAD = b"Host: localhost\r\nConnection: close\r\n"


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    folder = tmp_path_factory.mktemp("port")
    write_artifact(folder)
    port = free_port()
    admin = AdminPort(Control(Bench(folder).coordinator), port)
    admin.start()
    yield port
    admin.close()


def send(port: int, request: bytes) -> tuple[int, str]:
    """Return status and body of the answer to a request."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
        client.sendall(request)
        answer = HTTPResponse(client)
        answer.begin()
        return answer.status, answer.read().decode()


@pytest.mark.parametrize(
    ("request_", "status", "message"),
    [
        (b"GET /models HTTP/1.1\r\nContent-Length: \xb2\r\n", 400, "Content-Length"),
        (b"GET /models HTTP/1.1\r\nContent-Length: -1\r\n", 400, "Content-Length"),
        (b"GET /models HTTP/1.1\r\nTransfer-Encoding: chunked\r\n", 400, "Content-Length"),
        (b"GET /models HTTP/1.1\r\nContent-Length: " + b"1" * 5000 + b"\r\n", 413, "too large"),
        (b"GET http://[/models HTTP/1.1\r\n", 400, "is no path"),
        (b"GET /models?a=b HTTP/1.1\r\n", 400, "no parameter"),
        (b"GET /models HTTP/1.1\r\n", 200, "colours"),
    ],
)
def test_nonsense_is_answered_without_a_traceback(
    port: int, request_: bytes, status: int, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    found = send(port, request_ + HEAD + b"\r\n")
    assert found[0] == status
    assert message in found[1]
    assert not [each for each in caplog.records if each.levelno >= logging.ERROR]


@pytest.mark.parametrize(
    "request_",
    [
        b"GET /models HTTP/1.1\r\n" + HEAD + b"\r\n",
        b"GET /models HTTP/1.1\r\n" + HEAD + b"Content-Length: 100\r\n\r\n",
        b"GET /mod",
    ],
)
def test_client_that_leaves_early_leaves_no_traceback(
    port: int,
    request_: bytes,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for _ in range(4):
        client = socket.create_connection(("127.0.0.1", port), timeout=5)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.sendall(request_)
        client.close()  # with a reset
    time.sleep(0.2)
    assert send(port, b"GET /models HTTP/1.1\r\n" + HEAD + b"\r\n")[0] == 200
    assert "Traceback" not in capsys.readouterr().err
    assert not [each for each in caplog.records if each.levelno >= logging.ERROR]
