"""The port for gRPC, where one is set: opened after HTTP's, and closed with it."""

import asyncio
import logging
from typing import TYPE_CHECKING

from service.inference.admission import UploadBudget
from service.oip.dataplane import Server
from service.telemetry.metrics import Metrics
from service.telemetry.recorder import Recorder
from service.telemetry.tracing import Tracing

if TYPE_CHECKING:
    from service.oip.grpc.listening import Listener

logger = logging.getLogger("limelight.rpc")


class Port:
    """Nothing of gRPC is loaded before `open`, and nothing at all without a port."""

    def __init__(
        self,
        server: Server,
        upload_budget: UploadBudget,
        metrics: Metrics,
        notes: Recorder,
        trace: Tracing | None,
    ) -> None:
        self._parts = server, upload_budget, metrics, notes, trace
        self._number = server.settings.grpc_port
        self._listener: Listener | None = None
        self._closing: asyncio.Task[None] | None = None
        self.rejection = None if self._number is None else "the port for gRPC is not open yet"
        """Why nobody is served there who should be."""

    @property
    def in_flight(self) -> int:
        """Calls that are being answered."""
        return 0 if self._listener is None else self._listener.in_flight

    async def open(self, host: str | None) -> None:
        """Listen at `host`, or at this machine alone; a failure is told by `problem`."""
        if self._number is None:
            return
        from service.oip.grpc.listening import Listener
        from service.oip.grpc.servicer import Servicer

        server = self._parts[0]
        listener = Listener(
            server, Servicer(*self._parts), host=host or "127.0.0.1", port=self._number
        )
        try:
            listener.bind()
        except RuntimeError as error:
            self.rejection = f"gRPC cannot be served at port {self._number}: {error}"
            logger.error("the service is not ready: %s", self.rejection)
            return
        self._listener, self.rejection = listener, None
        await listener.start()

    def stop(self) -> None:
        """Take nothing new; to be called in the event loop."""
        if self._listener is not None and self._closing is None:
            self._closing = asyncio.create_task(self._listener.close())

    async def close(self) -> None:
        """Wait for what was taken to be finished."""
        self.stop()
        if self._closing is not None:
            await self._closing
