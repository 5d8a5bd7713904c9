"""Exchange of a gRPC call and its response, and the gRPC status of each error."""

from collections.abc import Mapping, Sequence
from typing import Any

import grpc

from limelight.errors import LimelightError
from limelight.result_builder import Winner
from service.headers import DIGEST_HEADER
from service.http.messages import choose_id
from service.http.statuses import headers_of
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
    "unauthenticated": grpc.StatusCode.UNAUTHENTICATED,
    "rate_limited": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "permission_denied": grpc.StatusCode.PERMISSION_DENIED,
    "repository_conflict": grpc.StatusCode.FAILED_PRECONDITION,
    "client_gone": grpc.StatusCode.CANCELLED,
    "internal_error": grpc.StatusCode.INTERNAL,
}


def trailers(error: LimelightError) -> tuple[tuple[str, str], ...]:
    """Return the headers of an error as metadata, such as `retry-after`."""
    return tuple((name.decode(), value.decode()) for name, value in headers_of(error))


def status_code(error: LimelightError) -> grpc.StatusCode:
    """Return the gRPC status of an error; INVALID_ARGUMENT for errors in a request's content."""
    return _CODES.get(error.code, grpc.StatusCode.INVALID_ARGUMENT)


class RpcRequest:
    """Request of a gRPC call. Its ID is `x-request-id` from the metadata, or a random one."""

    method = "GRPC"

    def __init__(self, headers: Mapping[bytes, bytes], context: RequestContext) -> None:
        self.headers, self.context = headers, context


class RpcExchange:
    """Facts about a call that the recorder needs; see `RecordedExchange`."""

    def __init__(self, request: RpcRequest) -> None:
        self.request = request
        self.model = self.version = "none"
        self.digest: str | None = None
        self.winners: Sequence[Winner] = ()
        self.method: str | None = None
        self.status = 200
        self.error_code: str | None = None

    @classmethod
    def begin(cls, context: Any, *, timeout_s: float) -> "RpcExchange":
        """Create an exchange. Its deadline is the service's, or the caller's if that is earlier."""
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
        request_context = exchange.request.context
        request_context.deadline = request_context.started + timeout_s
        return exchange

    def set_model(self, classifier: Classifier) -> None:
        """Record the model of the request."""
        self.model, self.version = classifier.key
        self.digest = classifier.digest

    def metadata(self, error: LimelightError | None = None) -> tuple[tuple[str, str], ...]:
        """Return the trailing metadata of the answer: the model's digest, an error's headers."""
        found = () if error is None else trailers(error)
        return found if self.digest is None else (*found, (DIGEST_HEADER, self.digest))

    def set_error(self, error: LimelightError) -> None:
        """Record the error that the call ends with."""
        self.status, self.error_code = status_of(type(error)), error.code
