"""Acceptor: connections that are accepted while the worker ends."""

import asyncio
import socket
from pathlib import Path
from types import SimpleNamespace

from service.process.connection_balancer import Acceptor
from service.settings import Settings


async def test_connection_that_is_accepted_as_the_worker_ends_is_closed(tmp_path: Path) -> None:
    server = SimpleNamespace(
        config=SimpleNamespace(ssl=None, loaded_app=None, http_protocol_class=None),
        server_state=SimpleNamespace(connections=set()),
        lifespan=SimpleNamespace(state={}),
    )
    acceptor = Acceptor(
        server,
        Settings(models=tmp_path),
        None,
        reject_early=lambda scope, receive: None,
        on_refusal=lambda error: None,
    )
    with (
        socket.create_server(("127.0.0.1", 0)) as listening,
        socket.create_connection(listening.getsockname(), 5) as client,
    ):
        acceptor._accept(listening)
        (task,) = acceptor._connecting
        task.cancel()
        await asyncio.wait([task])
        await asyncio.sleep(0)  # its callback runs
        assert await asyncio.to_thread(client.recv, 1) == b""
