"""The gRPC server of a worker: its port, its limits, and its health for those who watch it."""

import asyncio
import contextlib
import logging
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio

from service.oip.dataplane import Server
from service.oip.grpc.messages import SERVICE
from service.oip.grpc.servicer import Servicer
from service.process.shutdown import SETTLE_S

logger = logging.getLogger("limelight.rpc")

_TELL_S = 0.25
"""How soon those who watch learn of a change."""
_LOOK_S = 0.02
# Of a message beyond the tensors' bytes: names, shapes and parameters.
_HEAD_BYTES = 65_536


class Listener:
    """Serves on `port` of `host`; the workers of a service share it, and connections are spread."""

    def __init__(self, server: Server, servicer: Servicer, *, host: str, port: int) -> None:
        settings = server.settings
        self._server = server
        self._servicer = servicer
        self._grace_s = settings.timeout_s
        most_bytes = settings.max_bytes + _HEAD_BYTES
        self._grpc: Any = grpc.aio.server(
            options=[
                ("grpc.so_reuseport", 1),
                ("grpc.max_receive_message_length", most_bytes),
                ("grpc.max_send_message_length", -1),
                ("grpc.max_concurrent_streams", settings.max_queued),
            ]
        )
        self._grpc.add_generic_rpc_handlers((servicer.handler(),))
        self._health: Any = aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._grpc)
        self._address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self._telling: asyncio.Task[None] | None = None

    @property
    def in_flight(self) -> int:
        """Calls that are being answered."""
        return self._servicer.in_flight

    def bind(self) -> None:
        """Raises:
        RuntimeError: the port cannot be had.
        """
        self._grpc.add_insecure_port(self._address)

    async def start(self) -> None:
        """Take calls, once there is a port."""
        self._telling = asyncio.create_task(self._tell())
        await self._grpc.start()
        logger.info("gRPC is taken at %s", self._address)

    async def close(self) -> None:
        """Take nothing new, and finish what was taken."""
        if self._telling is not None:
            self._telling.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._telling
        await self._health.enter_graceful_shutdown()
        stopping = asyncio.create_task(self._grpc.stop(self._grace_s))
        await asyncio.sleep(SETTLE_S)
        while self.in_flight and not stopping.done():
            await asyncio.sleep(_LOOK_S)
        # What is left has nothing to wait for: streams without a request, and watchers.
        await self._grpc.stop(SETTLE_S)
        await stopping

    async def _tell(self) -> None:
        """Keep the health service's answers those of /readyz."""
        response, told = health_pb2.HealthCheckResponse, None
        while True:
            ready = self._server.rejection() is None
            status = response.SERVING if ready else response.NOT_SERVING
            if status != told:
                for name in ("", SERVICE):
                    await self._health.set(name, status)
                told = status
            await asyncio.sleep(_TELL_S)
