"""Acceptor: connections that arrive together, or while the worker ends."""

import asyncio
import socket
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import pytest

from service.process.connection_balancer import Acceptor
from service.settings import Settings


@pytest.fixture
def acceptor(tmp_path: Path) -> Acceptor:
    server = SimpleNamespace(
        config=SimpleNamespace(ssl=None, loaded_app=None, http_protocol_class=None),
        server_state=SimpleNamespace(connections=set()),
        lifespan=SimpleNamespace(state={}),
    )
    return Acceptor(
        server,
        Settings(models=tmp_path),
        None,
        reject_early=lambda scope, receive, arrived: None,
        on_refusal=lambda error: None,
    )


async def test_connections_that_wait_are_accepted_together(acceptor: Acceptor) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening, ExitStack() as clients:
        listening.setblocking(False)
        for _ in range(3):
            clients.enter_context(socket.create_connection(listening.getsockname(), 5))
        acceptor._accept(listening)
        tasks = list(acceptor._connecting)
        assert len(tasks) == 3
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def test_connection_that_is_accepted_as_the_worker_ends_is_closed(acceptor: Acceptor) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listening,
        socket.create_connection(listening.getsockname(), 5) as client,
    ):
        listening.setblocking(False)
        acceptor._accept(listening)
        (task,) = acceptor._connecting
        task.cancel()
        await asyncio.wait([task])
        await asyncio.sleep(0)  # its callback runs
        assert await asyncio.to_thread(client.recv, 1) == b""
