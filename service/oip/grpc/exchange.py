"""A remote procedure call on its way to an answer, and what it is called when it fails."""

from collections.abc import Mapping, Sequence
from typing import Any

import grpc

from limelight.errors import LimelightError
from limelight.result_builder import Winner
from service.http.messages import choose_id
from service.inference.classifier import Classifier
from service.oip.errors import status_of
from service.request_context import RequestContext

_CODES = {
    "unknown_model": grpc.StatusCode.NOT_FOUND,
    "request_timeout": grpc.StatusCode.DEADLINE_EXCEEDED,
    "deadline": grpc.StatusCode.DEADLINE_EXCEEDED,
    "body_too_large": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "overloaded": grpc.StatusCode.UNAVAILABLE,
    "not_ready": grpc.StatusCode.UNAVAILABLE,
    "draining": grpc.StatusCode.UNAVAILABLE,
    "client_gone": grpc.StatusCode.CANCELLED,
    "internal_error": grpc.StatusCode.INTERNAL,
}


def status_code(error: LimelightError) -> grpc.StatusCode:
    """INVALID_ARGUMENT for whatever is wrong with a request's content."""
    return _CODES.get(error.code, grpc.StatusCode.INVALID_ARGUMENT)


class RpcRequest:
    """Who asked; the id is that of the metadata's `x-request-id`, or a new one."""

    method = "GRPC"

    def __init__(self, headers: Mapping[bytes, bytes], context: RequestContext) -> None:
        self.headers, self.context = headers, context


class RpcExchange:
    """What becomes known of a call; see `service.telemetry.recorder.Recorded`."""

    def __init__(self, request: RpcRequest) -> None:
        self.request = request
        self.model = self.version = "none"
        self.winners: Sequence[Winner] = ()
        self.method: str | None = None
        self.status = 200
        self.refusal: str | None = None

    @classmethod
    def begin(cls, context: Any, *, timeout_s: float) -> "RpcExchange":
        """With the service's own deadline, which the caller's can shorten."""
        headers = {
            key.encode(): value if isinstance(value, bytes) else value.encode()
            for key, value in context.invocation_metadata() or ()
        }
        exchange = cls(
            RpcRequest(
                headers,
                RequestContext(id=choose_id(headers.get(b"x-request-id")), gone=context.done),
            )
        )
        remaining_s = context.time_remaining()
        if remaining_s is not None:
            timeout_s = min(timeout_s, remaining_s)
        asked = exchange.request.context
        asked.deadline = asked.started + timeout_s
        return exchange

    def asked(self, classifier: Classifier) -> None:
        self.model, self.version = classifier.manifest.name, classifier.manifest.version

    def refused(self, error: LimelightError) -> None:
        self.status, self.refusal = status_of(type(error)), error.code
