"""Raw connections to an application behind uvicorn, in the test's event loop."""

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn

from service.http.messages import Response
from service.settings import Settings
from tests.service.http.listening import listening
from tests.service.test_app import Served


@dataclass(frozen=True)
class Answer:
    """Response of the service."""

    status: int
    headers: dict[str, str]
    body: bytes

    def problem(self) -> dict[str, Any]:
        assert self.headers["content-type"] == "application/problem+json"
        problem: dict[str, Any] = json.loads(self.body)
        assert problem["status"] == self.status
        return problem


class Wire:
    """One connection, whose bytes the test writes itself."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    def send(self, *parts: bytes) -> None:
        self._writer.write(b"".join(parts))

    async def drain(self) -> None:
        await self._writer.drain()

    def end(self) -> None:
        """Close the side of the client only."""
        self._writer.write_eof()

    async def answer(self, timeout_s: float = 10) -> Answer:
        """Read the next response.

        Raises:
            IncompleteReadError: the service has closed the connection.
        """
        async with asyncio.timeout(timeout_s):
            head = (await self._reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")[:-2]
            headers = dict(line.split(": ", 1) for line in head[1:])
            body = await self._reader.readexactly(int(headers["content-length"]))
        return Answer(int(head[0].split()[1]), headers, body)

    async def read(self, size: int) -> bytes:
        async with asyncio.timeout(10):
            return await self._reader.read(size)

    async def closed(self, timeout_s: float = 10) -> bool:
        """Wait until the service closes the connection; return False if it sends more first."""
        try:
            async with asyncio.timeout(timeout_s):
                return await self._reader.read(1) == b""
        except ConnectionError:
            return True

    def close(self) -> None:
        self._writer.close()


class Service:
    """Service that is listening, and its open connections."""

    def __init__(self, served: Served, server: uvicorn.Server, port: int) -> None:
        self.served, self.port = served, port
        self._server = server
        self._wires: list[Wire] = []

    @property
    def connections(self) -> list[Any]:
        return list(self._server.server_state.connections)

    async def connect(self, *, receive_bytes: int | None = None) -> Wire:
        """Connect; with `receive_bytes`, keep at most about so much of what the service sends."""
        connection = socket.socket()
        connection.setblocking(False)
        limit = 2**16
        if receive_bytes is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
            limit = receive_bytes
        await asyncio.get_running_loop().sock_connect(connection, ("127.0.0.1", self.port))
        wire = Wire(*await asyncio.open_connection(sock=connection, limit=limit))
        self._wires.append(wire)
        return wire

    def serve(self, path: str, body: bytes) -> None:
        """Answer GET `path` with `body`."""

        async def endpoint(exchange: object) -> Response:
            return Response(body)

        self.served.application._routes[path] = {"GET": endpoint}

    def close(self) -> None:
        for wire in self._wires:
            with contextlib.suppress(OSError):
                wire.close()


@asynccontextmanager
async def serving(zoo: Path, **settings: Any) -> AsyncIterator[Service]:
    """Run the service with `settings`."""
    chosen = Settings(models=zoo, default_model="colours", device="cpu", **settings)
    served = Served(chosen)
    async with listening(served) as (server, port):
        service = Service(served, server, port)
        try:
            yield service
        finally:
            service.close()
