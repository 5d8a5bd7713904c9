"""Connections shared evenly among the workers.

The event loop of the worker that is first awake takes all connections that wait, so a client that
opens sixty-four at once often has them all at one worker, while the others idle. Here a worker
takes one a turn, and lets one with fewer go first.
"""

import asyncio
import logging
import mmap
import os
import signal
import socket
import struct
import time
from functools import partial
from pathlib import Path
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.http.uvicorn_protocol import Protocol, TurnAway

logger = logging.getLogger("limelight.accepting")

_CHECK_S = 0.001
# How long one with fewer connections is waited for; event loops count in milliseconds.
_COURTESY_S = 0.001
# After a failure to accept.
_BREATH_S = 0.1
# A worker that has not told its number for so long is dead, or no help.
_STALE_S = 1.0
_SLOT = struct.Struct("=dq")


class ConnectionCounts:
    """How many connections each worker has, in memory that all of them see.

    Args:
        path: a file of the workers' own; made where it is not there.
        worker: this one's number, from 0.
        workers: how many there are.
    """

    def __init__(self, path: Path, *, worker: int, workers: int) -> None:
        self._own = worker
        self._others = [number for number in range(workers) if number != worker]
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            size = workers * _SLOT.size
            if os.fstat(descriptor).st_size < size:
                os.ftruncate(descriptor, size)
            self._memory = mmap.mmap(descriptor, size)
        finally:
            os.close(descriptor)

    def tell(self, connections: int) -> None:
        """So many has this worker now."""
        _SLOT.pack_into(self._memory, self._own * _SLOT.size, time.monotonic(), connections)

    def least(self) -> int | None:
        """The least that another worker has; None where there is no other."""
        oldest, counts = time.monotonic() - _STALE_S, []
        for number in self._others:
            told, connections = _SLOT.unpack_from(self._memory, number * _SLOT.size)
            if told > oldest:
                counts.append(int(connections))
        return min(counts, default=None)


class Acceptor:
    """Accepts in uvicorn's place, and hands each connection to uvicorn's own protocol.

    Args:
        server: the running `uvicorn.Server`; under None, another server does as it likes.
        connection_counts: the connections of all workers; None where this is the only one.
        turn_away: asked at the head of each request; see `service.http.uvicorn_protocol`.
    """

    def __init__(
        self,
        server: Any | None,
        connection_counts: ConnectionCounts | None = None,
        *,
        turn_away: TurnAway = lambda scope, receive: None,
    ) -> None:
        self._server = server
        self._turn_away = turn_away
        self._connection_counts = connection_counts
        self._sockets: list[socket.socket] = []
        self._handing_over: set[asyncio.Task[Any]] = set()
        self._waited = False

    @classmethod
    def of_this_process(
        cls, connection_counts: ConnectionCounts | None, *, turn_away: TurnAway
    ) -> "Acceptor":
        """For the server that handles this process's signals, to be called when it starts."""
        server = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
        if not hasattr(server, "server_state"):
            server = None
        return cls(server, connection_counts, turn_away=turn_away)

    async def take_over(self) -> None:
        """Wait until the server listens, and listen in its place."""
        if self._server is None:
            return
        while not self._server.started:
            await asyncio.sleep(_CHECK_S)
        for listener in self._server.servers:
            self._sockets += [shared.dup() for shared in listener.sockets]
            listener.close()
        for listening in self._sockets:
            listening.setblocking(False)
            self._listen(listening)

    @property
    def host(self) -> str | None:
        """The address that is listened on; None where that is none of the network's, or not yet."""
        families = (socket.AF_INET, socket.AF_INET6)
        hosts = (one.getsockname()[0] for one in self._sockets if one.family in families)
        return next(hosts, None)

    def tell(self) -> None:
        """Let the other workers know of this one; to be called every now and then."""
        if self._connection_counts is not None and self._server is not None:
            self._connection_counts.tell(len(self._server.server_state.connections))

    def stop(self) -> None:
        """Take no further connection; those that were taken live on."""
        loop = asyncio.get_running_loop()
        for listening in self._sockets:
            loop.remove_reader(listening)
            listening.close()
        self._sockets.clear()

    def _listen(self, listening: socket.socket) -> None:
        if listening in self._sockets:
            asyncio.get_running_loop().add_reader(listening, self._accept, listening)

    def _listen_later(self, listening: socket.socket, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(listening)
        loop.call_later(seconds, self._listen, listening)

    def _accept(self, listening: socket.socket) -> None:
        if self._connection_counts is not None and not self._waited:
            least = self._connection_counts.least()
            if least is not None and least < len(self._connections()):
                self._waited = True  # once: the other may be busy
                self._listen_later(listening, _COURTESY_S)
                return
        self._waited = False
        try:
            connection, _ = listening.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return  # another worker was faster, or the client gave up
        except OSError as error:  # no file descriptors are left, say: others will be given back
            logger.warning("a connection cannot be accepted: %s", error)
            self._listen_later(listening, _BREATH_S)
            return
        connection.setblocking(False)
        if connection.family in (socket.AF_INET, socket.AF_INET6):
            # Not every event loop does this for a connection that it is given: an answer's body
            # would wait for the client to acknowledge its head, 40 ms now and then.
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        loop = asyncio.get_running_loop()
        server: Any = self._server
        task = loop.create_task(
            loop.connect_accepted_socket(self._protocol, connection, ssl=server.config.ssl)
        )
        self._handing_over.add(task)
        task.add_done_callback(self._handed_over)

    def _handed_over(self, task: asyncio.Task[Any]) -> None:
        self._handing_over.discard(task)
        if not task.cancelled() and task.exception() is not None:
            logger.info("a connection broke off: %s", task.exception())
        self.tell()

    def _connections(self) -> set[Any]:
        connections: set[Any] = self._server.server_state.connections if self._server else set()
        return connections

    def _protocol(self) -> asyncio.Protocol:
        server: Any = self._server
        factory = server.config.http_protocol_class
        if factory is HttpToolsProtocol:
            factory = partial(Protocol, turn_away=self._turn_away)
        protocol: asyncio.Protocol = factory(
            config=server.config, server_state=server.server_state, app_state=server.lifespan.state
        )
        lost = protocol.connection_lost

        def connection_lost(error: Exception | None) -> None:
            lost(error)
            self.tell()

        if self._connection_counts is not None:
            protocol.connection_lost = connection_lost  # type: ignore[assignment,method-assign]
        return protocol
