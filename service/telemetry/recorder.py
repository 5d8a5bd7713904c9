"""What is written down of a request when it is over: counted, traced and logged."""

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from limelight.result_builder import Winner
from service.request_context import RequestContext
from service.telemetry import tracing
from service.telemetry.metrics import Answered, Metrics, Predicted
from service.telemetry.tracing import Tracing

if TYPE_CHECKING:
    from opentelemetry.trace import Span

logger = logging.getLogger("limelight.app")


class Asked(Protocol):
    """Who asked, and how."""

    @property
    def method(self) -> str: ...
    @property
    def context(self) -> RequestContext: ...


class Recorded(Protocol):
    """A request, and what became known of it."""

    @property
    def request(self) -> Asked: ...

    @property
    def model(self) -> str: ...
    @property
    def version(self) -> str: ...

    winners: Sequence[Winner]
    """Of each image that was classified."""
    method: str | None
    """How they were explained."""


class Recorder:
    """Where requests of all kinds are noted, one at a time.

    `route` must be one of ours, or "other": it is a label of the metrics.
    """

    def __init__(self, metrics: Metrics, trace: Tracing | None, *, access_log: bool) -> None:
        self._metrics = metrics
        self._tracing = trace
        self._access_log = access_log
        # Interned: a request looks its key up, and hashes as little as it can.
        self._who: dict[tuple[object, ...], Answered] = {}
        self._what: dict[tuple[object, ...], Predicted] = {}

    def record(
        self,
        exchange: Recorded,
        route: str,
        status: int,
        refusal: str | None,
        seconds: float,
        span: "Span | None",
    ) -> None:
        """It was answered with `status`, of HTTP or what it would be there, after `seconds`."""
        request, context = exchange.request, exchange.request.context
        parts = (route, exchange.model, exchange.version, status, refusal)
        who = self._who.get(parts)
        if who is None:
            who = self._who[parts] = Answered(*parts)
        self._metrics.answered(who, seconds=seconds, stages=context.stages)
        for label, confidence, flags in exchange.winners:
            said = (exchange.model, label, flags, exchange.method)
            what = self._what.get(said)
            if what is None:
                what = self._what[said] = Predicted(*said)
            self._metrics.predicted(what, confidence)
        if span is not None and self._tracing is not None:
            attributes: dict[str, str | int] = {
                "http.request.method": request.method,
                "http.route": route,
                "http.response.status_code": status,
                "limelight.model": exchange.model,
                "limelight.request_id": context.id,
            }
            self._tracing.end(span, context, attributes)
        if self._access_log:
            facts = {
                "request_id": context.id,
                "trace_id": None if span is None else tracing.trace_id(span),
                "method": request.method,
                "route": route,
                "status": status,
                "duration_ms": round(seconds * 1000, 3),
                "model": exchange.model,
            }
            logger.info("%s %s %d", facts["method"], route, status, extra=facts)
