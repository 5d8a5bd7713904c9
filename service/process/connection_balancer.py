"""Connection balancer: shares connections evenly among the workers.

By default, the first event loop that wakes up accepts all waiting connections. A client that opens
64 connections at once then often has all of them in one worker, while the others are idle. Here a
worker first yields to a worker with fewer connections, before each that it accepts.
"""

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import Callable
from functools import partial
from typing import Any

from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from limelight.errors import LimelightError
from service.http.uvicorn_protocol import EarlyRejection, Protocol
from service.process.open_connections import OpenConnections, connection_limits
from service.process.orphans import is_orphan
from service.process.worker_status import WorkerStatus
from service.settings import Settings

logger = logging.getLogger("limelight.accepting")

_CHECK_S = 0.001
# Pause in which a worker with fewer connections may accept; event loops have millisecond timers.
_YIELD_S = 0.001
_ACCEPTED_AT_ONCE = 32
# Part of its connections by which a worker may have more than another one: 1 in 16.
_TOLERANCE = 16
# Pause after a failure to accept, and interval between two warnings about it.
_RETRY_S = 0.1
_WARN_S = 10.0


class Acceptor:
    """Acceptor of connections in place of uvicorn; it passes them to uvicorn's protocol.

    Args:
        server: running `uvicorn.Server`; None under another server, which then accepts itself.
        settings: limits of a connection.
        status: status of all workers; None without our parent process.
        reject_early, on_refusal: see `service.http.uvicorn_protocol`.
    """

    def __init__(
        self,
        server: Any | None,
        settings: Settings,
        status: WorkerStatus | None,
        *,
        reject_early: EarlyRejection,
        on_refusal: Callable[[LimelightError], None],
    ) -> None:
        self._server = server
        self._settings = settings
        self._status = status
        self._reject_early, self._on_refusal = reject_early, on_refusal
        self._open = OpenConnections(settings)
        if server is not None:
            # From its first connection on, also before `take_over`.
            server.config.http_protocol_class = self._protocol
            # The service needs neither the client's address nor the scheme.
            if isinstance(server.config.loaded_app, ProxyHeadersMiddleware):
                server.config.loaded_app = server.config.loaded_app.app
        self._sockets: list[socket.socket] = []
        self._connecting: set[asyncio.Task[Any]] = set()
        self._yielded = False
        self._warned = -_WARN_S
        self.max_grpc_connections = settings.max_connections
        """Connections of the gRPC port that the limit of open files allows."""

    @classmethod
    def of_this_process(
        cls,
        settings: Settings,
        status: WorkerStatus | None,
        *,
        reject_early: EarlyRejection,
        on_refusal: Callable[[LimelightError], None],
    ) -> "Acceptor":
        """Create the acceptor for the server of this process; call this at its startup."""
        server = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
        if not hasattr(server, "server_state"):
            server = None
        return cls(server, settings, status, reject_early=reject_early, on_refusal=on_refusal)

    async def take_over(self) -> None:
        """Wait until the server listens, then listen in its place."""
        if self._server is None:
            return
        while not self._server.started:
            await asyncio.sleep(_CHECK_S)
        for listener in self._server.servers:
            self._sockets += [shared.dup() for shared in listener.sockets]
            listener.close()
        limit, grpc = connection_limits(self._settings, len(self._connections()))
        self.max_grpc_connections = grpc
        self._open.set_limit(limit)
        for listening in self._sockets:
            listening.setblocking(False)
            self._listen(listening)

    @property
    def host(self) -> str | None:
        """Address that is listened on; None before listening, or if it is not an IP address."""
        families = (socket.AF_INET, socket.AF_INET6)
        hosts = (one.getsockname()[0] for one in self._sockets if one.family in families)
        return next(hosts, None)

    def check(self) -> None:
        """Publish the connection count, the worker's sign of life, and apply the limits of time.

        Call this regularly.
        """
        self._publish_count()
        self._open.close_late(self._connections())

    def stop(self) -> None:
        """Accept no more connections; existing connections stay open."""
        loop = asyncio.get_running_loop()
        for listening in self._sockets:
            loop.remove_reader(listening)
            if is_orphan():  # for every worker: the next start gets the port at once
                with contextlib.suppress(OSError):
                    listening.shutdown(socket.SHUT_RDWR)
            listening.close()
        self._sockets.clear()

    def _publish_count(self) -> None:
        if self._status is not None:
            self._status.publish(len(self._connections()))

    def _listen(self, listening: socket.socket) -> None:
        if listening in self._sockets:
            asyncio.get_running_loop().add_reader(listening, self._accept, listening)

    def _listen_later(self, listening: socket.socket, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(listening)
        loop.call_later(seconds, self._listen, listening)

    def _accept(self, listening: socket.socket) -> None:
        """Accept what waits. One connection in each turn of a busy event loop would be too slow."""
        for _ in range(_ACCEPTED_AT_ONCE):
            if not self._accept_one(listening):
                return

    def _accept_one(self, listening: socket.socket) -> bool:
        """Accept a connection, and return True if there may be more, and is room for them."""
        if self._status is not None and not self._yielded:
            least, mine = self._status.least(), len(self._connections()) + len(self._connecting)
            # With exact shares, two busy workers would yield to each other for each connection.
            if least is not None and least < mine - mine // _TOLERANCE:
                self._yielded = True  # once only: the other worker may be busy
                self._listen_later(listening, _YIELD_S)
                return False
        self._yielded = False
        try:
            connection, _ = listening.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return False  # another worker was faster, or the client disconnected
        except OSError as error:  # e.g. no file descriptors are left
            now = asyncio.get_running_loop().time()
            if now > self._warned + _WARN_S:
                self._warned = now
                logger.warning("a connection cannot be accepted: %s", error)
            self._open.close_idle(self._connections())
            self._listen_later(listening, _RETRY_S)
            return False
        regular = self._open.make_room(self._connections(), len(self._connecting))
        connection.setblocking(False)
        if connection.family in (socket.AF_INET, socket.AF_INET6):
            # Not every event loop sets TCP_NODELAY for a connection that was accepted elsewhere.
            # Without it, a response's body can wait 40 ms for the client to acknowledge its head.
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        loop = asyncio.get_running_loop()
        server: Any = self._server
        ssl = server.config.ssl
        task = loop.create_task(
            loop.connect_accepted_socket(
                partial(self._accepted, surplus=not regular),
                connection,
                ssl=ssl,
                ssl_handshake_timeout=None if ssl is None else self._settings.head_timeout_s,
            )
        )
        self._connecting.add(task)
        task.add_done_callback(partial(self._connected, connection))
        # Connections that are closed to make room leave in the next turn of the loop.
        return len(self._connections()) + len(self._connecting) < self._open.limit

    def _connected(self, connection: socket.socket, task: asyncio.Task[Any]) -> None:
        self._connecting.discard(task)
        if task.cancelled():
            connection.close()  # the loop ended before it took the connection over
        elif task.exception() is not None:
            logger.info("a connection was interrupted: %s", task.exception())
        self._publish_count()

    def _connections(self) -> set[Protocol]:
        connections: set[Protocol] = (
            self._server.server_state.connections if self._server else set()
        )
        return connections

    def _protocol(self, **options: Any) -> Protocol:
        protocol = Protocol(
            settings=self._settings,
            reject_early=self._reject_early,
            on_refusal=self._on_refusal,
            **options,
        )
        lost = protocol.connection_lost

        def connection_lost(error: Exception | None) -> None:
            lost(error)
            self._publish_count()

        if self._status is not None:
            protocol.connection_lost = connection_lost  # type: ignore[assignment,method-assign]
        return protocol

    def _accepted(self, *, surplus: bool) -> Protocol:
        server: Any = self._server
        protocol = self._protocol(
            config=server.config, server_state=server.server_state, app_state=server.lifespan.state
        )
        protocol.surplus = surplus
        return protocol
