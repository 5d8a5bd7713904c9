"""gRPC server of a worker: its port, its limits and its health service."""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio

from limelight.errors import LimelightError
from service.oip.dataplane import Server
from service.oip.grpc.messages import SERVICE
from service.oip.grpc.read_interceptor import HEAD_BYTES, BoundedReading
from service.oip.grpc.read_limits import TURN_S
from service.oip.grpc.servicer import Servicer
from service.process.shutdown import SETTLE_S
from service.settings import Settings

logger = logging.getLogger("limelight.rpc")

_HEALTH_INTERVAL_S = 0.25
"""Interval at which the health service is updated."""
_POLL_S = 0.02
# Shortest interval at which clients may ping. Many do every 30 s; the default allows every 300 s.
_MIN_PING_S = 10.0
_MS = 1000


class Listener:
    """gRPC server on `port` of `host`. Workers share the port; the kernel spreads connections.

    At most `max_connections` are open; the library closes the others at once.
    """

    def __init__(
        self,
        server: Server,
        servicer: Servicer,
        *,
        host: str,
        port: int,
        max_connections: int,
        on_refusal: Callable[[LimelightError], None],
    ) -> None:
        settings = server.settings
        self._server = server
        self._servicer = servicer
        self._grace_s = settings.timeout_s
        self._reading = BoundedReading(settings, on_refusal, servicer.guard)
        self._grpc: Any = grpc.aio.server(
            interceptors=[self._reading], options=_options(settings, max_connections)
        )
        self._grpc.add_generic_rpc_handlers((servicer.handler(),))
        self._health: Any = aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._grpc)
        if settings.grpc_reflection:
            from service.oip.grpc.reflection import reflection_handlers

            self._grpc.add_generic_rpc_handlers(reflection_handlers())
        self._address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def in_flight(self) -> int:
        """Number of calls in progress."""
        return self._servicer.in_flight

    def bind(self) -> None:
        """Bind the port.

        Raises:
            RuntimeError: the port is not available.
        """
        self._grpc.add_insecure_port(self._address)

    async def start(self) -> None:
        """Accept calls; call this after `bind`."""
        self._tasks = [
            asyncio.create_task(self._update_health()),
            asyncio.create_task(self._end_late_calls()),
        ]
        await self._grpc.start()
        logger.info("gRPC listens on %s", self._address)

    async def close(self) -> None:
        """Accept no more calls, and finish the calls in progress."""
        for task in self._tasks:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        await self._health.enter_graceful_shutdown()
        stopping = asyncio.create_task(self._grpc.stop(self._grace_s))
        await asyncio.sleep(SETTLE_S)
        while self.in_flight and not stopping.done():
            await asyncio.sleep(_POLL_S)
        # Only idle streams and health watchers are left.
        await self._grpc.stop(SETTLE_S)
        await stopping

    async def _end_late_calls(self) -> None:
        while True:
            await asyncio.sleep(TURN_S)
            self._reading.end_late()

    async def _update_health(self) -> None:
        """Keep the health service in agreement with /readyz."""
        response, published = health_pb2.HealthCheckResponse, None
        while True:
            ready = self._server.unready_error() is None
            status = response.SERVING if ready else response.NOT_SERVING
            if status != published:
                for name in ("", SERVICE):
                    await self._health.set(name, status)
                published = status
            await asyncio.sleep(_HEALTH_INTERVAL_S)


def _options(settings: Settings, max_connections: int) -> list[tuple[str, int]]:
    """Return the limits of the gRPC library for a server."""
    return [
        ("grpc.so_reuseport", 1),
        ("grpc.max_receive_message_length", settings.max_bytes + HEAD_BYTES),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_allowed_incoming_connections", max_connections),
        ("grpc.max_concurrent_streams", settings.grpc_max_streams),
        # Otherwise the window of a stream that nobody reads from grows to megabytes.
        ("grpc.http2.bdp_probe", 0),
        ("grpc.server_handshake_timeout_ms", int(settings.head_timeout_s * _MS)),
        ("grpc.max_connection_idle_ms", int(settings.grpc_idle_s * _MS)),
        ("grpc.max_connection_age_ms", int(settings.grpc_connection_age_s * _MS)),
        ("grpc.max_connection_age_grace_ms", int(settings.timeout_s * _MS)),
        ("grpc.keepalive_time_ms", int(settings.grpc_keepalive_s * _MS)),
        ("grpc.keepalive_timeout_ms", int(settings.write_timeout_s * _MS)),
        ("grpc.http2.ping_timeout_ms", int(settings.write_timeout_s * _MS)),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", int(_MIN_PING_S * _MS)),
    ]
