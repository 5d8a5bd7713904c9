"""gRPC port, if one is set: opened after the HTTP port, and closed with it."""

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from limelight.errors import LimelightError
from service.access.access import Access
from service.inference.admission import UploadBudget
from service.oip.dataplane import Server
from service.telemetry.metrics import Metrics
from service.telemetry.recorder import Recorder
from service.telemetry.tracing import Tracing

if TYPE_CHECKING:
    from service.oip.grpc.listening import Listener

logger = logging.getLogger("limelight.rpc")


class Port:
    """Port for gRPC. The gRPC library is loaded by `open`, and only if a port is set."""

    def __init__(
        self,
        server: Server,
        upload_budget: UploadBudget,
        metrics: Metrics,
        recorder: Recorder,
        trace: Tracing | None,
        on_refusal: Callable[[LimelightError], None],
        access: Access | None = None,
    ) -> None:
        self._on_refusal = on_refusal
        self._servicer_arguments = server, upload_budget, metrics, recorder, trace, access
        self._number = server.settings.grpc_port
        self._listener: Listener | None = None
        self._closing: asyncio.Task[None] | None = None
        self.unready_reason = None if self._number is None else "the gRPC port is not open yet"
        """Reason why the gRPC port is not ready; None if it is ready or not set."""

    @property
    def in_flight(self) -> int:
        """Number of calls in progress."""
        return 0 if self._listener is None else self._listener.in_flight

    async def open(self, host: str | None, *, max_connections: int) -> None:
        """Listen on `host`, or on 127.0.0.1 only. After a failure, `unready_reason` is set."""
        if self._number is None:
            return
        from service.oip.grpc.listening import Listener
        from service.oip.grpc.servicer import Servicer

        server = self._servicer_arguments[0]
        listener = Listener(
            server,
            Servicer(*self._servicer_arguments),
            host=host or "127.0.0.1",
            port=self._number,
            max_connections=max_connections,
            on_refusal=self._on_refusal,
        )
        try:
            listener.bind()
        except RuntimeError as error:
            self.unready_reason = f"gRPC cannot be served on port {self._number}: {error}"
            logger.error("the service is not ready: %s", self.unready_reason)
            return
        self._listener, self.unready_reason = listener, None
        await listener.start()

    def stop(self) -> None:
        """Accept no more calls; call this in the event loop."""
        if self._listener is not None and self._closing is None:
            self._closing = asyncio.create_task(self._listener.close())

    async def close(self) -> None:
        """Stop, and wait for the calls in progress."""
        self.stop()
        if self._closing is not None:
            await self._closing
