"""Connection balancer: shares connections evenly among the workers.

By default, the first event loop that wakes up accepts all waiting connections. A client that opens
64 connections at once then often has all of them in one worker, while the others are idle. Here a
worker accepts one connection at a time, and first yields to a worker with fewer connections.
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

from service.http.uvicorn_protocol import EarlyRejection, Protocol

logger = logging.getLogger("limelight.accepting")

_CHECK_S = 0.001
# Pause in which a worker with fewer connections may accept; event loops have millisecond timers.
_YIELD_S = 0.001
# Pause after a failure to accept.
_RETRY_S = 0.1
# Age from which a published count is ignored: its worker is dead or blocked.
_STALE_S = 1.0
_SLOT = struct.Struct("=dq")


class ConnectionCounts:
    """Worker connection counts, in memory that all workers share.

    Args:
        path: file behind the shared memory; created if it does not exist.
        worker: number of this worker, from 0.
        workers: number of workers.
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

    def publish(self, connections: int) -> None:
        """Write the number of connections of this worker."""
        _SLOT.pack_into(self._memory, self._own * _SLOT.size, time.monotonic(), connections)

    def least(self) -> int | None:
        """Return the lowest count of another worker; None if there is no other worker."""
        oldest, counts = time.monotonic() - _STALE_S, []
        for number in self._others:
            published, connections = _SLOT.unpack_from(self._memory, number * _SLOT.size)
            if published > oldest:
                counts.append(int(connections))
        return min(counts, default=None)


class Acceptor:
    """Acceptor of connections in place of uvicorn; it passes them to uvicorn's protocol.

    Args:
        server: running `uvicorn.Server`; None under another server, which then accepts itself.
        connection_counts: connection counts of all workers; None if this is the only worker.
        reject_early: called for the head of each request; see `service.http.uvicorn_protocol`.
    """

    def __init__(
        self,
        server: Any | None,
        connection_counts: ConnectionCounts | None = None,
        *,
        reject_early: EarlyRejection = lambda scope, receive: None,
    ) -> None:
        self._server = server
        self._reject_early = reject_early
        self._connection_counts = connection_counts
        self._sockets: list[socket.socket] = []
        self._connecting: set[asyncio.Task[Any]] = set()
        self._yielded = False

    @classmethod
    def of_this_process(
        cls, connection_counts: ConnectionCounts | None, *, reject_early: EarlyRejection
    ) -> "Acceptor":
        """Create the acceptor for the server of this process; call this at its startup."""
        server = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
        if not hasattr(server, "server_state"):
            server = None
        return cls(server, connection_counts, reject_early=reject_early)

    async def take_over(self) -> None:
        """Wait until the server listens, then listen in its place."""
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
        """Address that is listened on; None before listening, or if it is not an IP address."""
        families = (socket.AF_INET, socket.AF_INET6)
        hosts = (one.getsockname()[0] for one in self._sockets if one.family in families)
        return next(hosts, None)

    def publish_count(self) -> None:
        """Publish the connection count of this worker; call this regularly."""
        if self._connection_counts is not None and self._server is not None:
            self._connection_counts.publish(len(self._server.server_state.connections))

    def stop(self) -> None:
        """Accept no more connections; existing connections stay open."""
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
        if self._connection_counts is not None and not self._yielded:
            least = self._connection_counts.least()
            if least is not None and least < len(self._connections()):
                self._yielded = True  # once only: the other worker may be busy
                self._listen_later(listening, _YIELD_S)
                return
        self._yielded = False
        try:
            connection, _ = listening.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return  # another worker was faster, or the client disconnected
        except OSError as error:  # e.g. no file descriptors are left; some will be closed later
            logger.warning("a connection cannot be accepted: %s", error)
            self._listen_later(listening, _RETRY_S)
            return
        connection.setblocking(False)
        if connection.family in (socket.AF_INET, socket.AF_INET6):
            # Not every event loop sets TCP_NODELAY for a connection that was accepted elsewhere.
            # Without it, a response's body can wait 40 ms for the client to acknowledge its head.
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        loop = asyncio.get_running_loop()
        server: Any = self._server
        task = loop.create_task(
            loop.connect_accepted_socket(self._protocol, connection, ssl=server.config.ssl)
        )
        self._connecting.add(task)
        task.add_done_callback(self._connected)

    def _connected(self, task: asyncio.Task[Any]) -> None:
        self._connecting.discard(task)
        if not task.cancelled() and task.exception() is not None:
            logger.info("a connection was interrupted: %s", task.exception())
        self.publish_count()

    def _connections(self) -> set[Any]:
        connections: set[Any] = self._server.server_state.connections if self._server else set()
        return connections

    def _protocol(self) -> asyncio.Protocol:
        server: Any = self._server
        factory = server.config.http_protocol_class
        if factory is HttpToolsProtocol:
            factory = partial(Protocol, reject_early=self._reject_early)
        protocol: asyncio.Protocol = factory(
            config=server.config, server_state=server.server_state, app_state=server.lifespan.state
        )
        lost = protocol.connection_lost

        def connection_lost(error: Exception | None) -> None:
            lost(error)
            self.publish_count()

        if self._connection_counts is not None:
            protocol.connection_lost = connection_lost  # type: ignore[assignment,method-assign]
        return protocol
