"""Request recorder: counts, traces and logs each completed request."""

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from limelight.result_builder import Winner
from service.request_context import RequestContext
from service.telemetry import tracing
from service.telemetry.metrics import Metrics, PredictionLabels, RequestLabels
from service.telemetry.tracing import Tracing

if TYPE_CHECKING:
    from opentelemetry.trace import Span

logger = logging.getLogger("limelight.access")


class RecordedRequest(Protocol):
    """Method and context of a request."""

    @property
    def method(self) -> str: ...
    @property
    def context(self) -> RequestContext: ...


class RecordedExchange(Protocol):
    """Request, with the model and the predictions that the recorder counts."""

    @property
    def request(self) -> RecordedRequest: ...

    @property
    def model(self) -> str: ...
    @property
    def version(self) -> str: ...
    @property
    def digest(self) -> str | None: ...

    winners: Sequence[Winner]
    """Winning class of each image."""
    method: str | None
    """Explanation method; None: no explanation was requested."""


class Recorder:
    """Request recorder for completed requests of HTTP and gRPC, one at a time.

    `route` is a label of the metrics: it must be a route of the application, or "other".
    """

    def __init__(self, metrics: Metrics, trace: Tracing | None, *, access_log: bool) -> None:
        self._metrics = metrics
        self._tracing = trace
        self._access_log = access_log
        # Interned labels: a request then hashes only a tuple.
        self._request_labels: dict[tuple[object, ...], RequestLabels] = {}
        self._prediction_labels: dict[tuple[object, ...], PredictionLabels] = {}

    def record(
        self,
        exchange: RecordedExchange,
        route: str,
        status: int,
        error_code: str | None,
        seconds: float,
        span: "Span | None",
    ) -> None:
        """Record a request that was answered after `seconds`.

        `status` is the HTTP status; for gRPC, it is the status that HTTP would have.
        """
        request, context = exchange.request, exchange.request.context
        caller = context.caller.name
        request_key = (route, exchange.model, exchange.version, status, error_code, caller)
        labels = self._request_labels.get(request_key)
        if labels is None:
            labels = self._request_labels[request_key] = RequestLabels(*request_key)
        self._metrics.observe_request(labels, seconds=seconds, stages=context.stages)
        if context.trial is not None:
            context.trial.end(status, context)
        for label, confidence, flags in exchange.winners:
            key = (exchange.model, label, flags, exchange.method, exchange.version)
            prediction = self._prediction_labels.get(key)
            if prediction is None:
                prediction = self._prediction_labels[key] = PredictionLabels(*key)
            self._metrics.observe_prediction(prediction, confidence)
        if span is not None and self._tracing is not None:
            attributes: dict[str, str | int] = {
                "http.request.method": request.method,
                "http.route": route,
                "http.response.status_code": status,
                "limelight.model": exchange.model,
                "limelight.request_id": context.id,
            }
            if exchange.digest is not None:
                attributes["limelight.model_digest"] = exchange.digest
            if caller:
                attributes["limelight.key"] = caller
            self._tracing.end(span, context, attributes)
        if self._access_log or logger.isEnabledFor(logging.DEBUG):
            fields = {
                "request_id": context.id,
                "trace_id": None if span is None else tracing.trace_id(span),
                "method": request.method,
                "route": route,
                "status": status,
                "duration_ms": round(seconds * 1000, 3),
                "model": exchange.model,
                "digest": exchange.digest,
                "key": caller or None,
            }
            logger.info("%s %s %d", fields["method"], route, status, extra=fields)
