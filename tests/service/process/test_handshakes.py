"""Listening socket that drops new handshakes while open connections stay usable."""

import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from service.process.handshakes import drop_handshakes
from tests.serving_kit import REPOSITORY


@pytest.fixture(params=["127.0.0.1", "::1"])
def listening(request: pytest.FixtureRequest) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in request.param else socket.AF_INET
    with socket.socket(family) as server:
        try:
            server.bind((request.param, 0))
        except OSError:
            pytest.skip("this machine has no IPv6")
        server.listen()
        server.settimeout(5)
        yield server


def test_open_connections_are_served_and_new_handshakes_are_dropped(
    listening: socket.socket,
) -> None:
    address = listening.getsockname()
    with socket.create_connection(address[:2], timeout=5) as early:  # before it is accepted
        drop_handshakes(listening)
        with pytest.raises(TimeoutError):
            socket.create_connection(address[:2], timeout=0.3)
        accepted, _ = listening.accept()
        with accepted:
            early.sendall(b"question")
            assert accepted.recv(100) == b"question"
            accepted.sendall(b"answer")
            assert early.recv(100) == b"answer"
        assert early.recv(100) == b""  # end of file, not a reset
    listening.shutdown(socket.SHUT_RDWR)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address[:2], timeout=5)


CHILD = """
import socket, sys
from service.process.handshakes import drop_handshakes
drop_handshakes(socket.socket(fileno=int(sys.argv[1])))
"""


def test_handshake_filter_applies_to_every_process_that_shares_the_socket(
    listening: socket.socket,
) -> None:
    listening.set_inheritable(True)
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", CHILD, str(listening.fileno())],
        cwd=REPOSITORY,
        close_fds=False,
        check=True,
    )
    with pytest.raises(TimeoutError):
        socket.create_connection(listening.getsockname()[:2], timeout=0.3)


def test_kernel_without_socket_filters_is_only_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    class Plain:
        def setsockopt(self, *arguments: object) -> None:
            raise OSError("Protocol not available")

    drop_handshakes(Plain())  # type: ignore[arg-type]
    assert "Protocol not available" in caplog.text
