"""Errors of the HTTP interface, and the only table that maps errors to HTTP statuses."""

import math

from limelight import errors
from limelight.errors import LimelightError


class MalformedRequest(LimelightError):
    code, title = "malformed_request", "Not a valid HTTP request"


class HeadTooLarge(LimelightError):
    code, title = "head_too_large", "The head of the request is too large"


class InvalidMultipart(LimelightError):
    code, title = "invalid_multipart", "The multipart body cannot be parsed"


class NoSuchRoute(LimelightError):
    code, title = "no_such_route", "No such route"


class MethodNotAllowed(LimelightError):
    code, title = "method_not_allowed", "Method not allowed"

    def __init__(self, detail: str, *, allowed: str) -> None:
        super().__init__(detail)
        self.allowed = allowed


class RequestTimeout(LimelightError):
    code, title = "request_timeout", "The request did not arrive in time"


class BodyTooLarge(LimelightError):
    code, title = "body_too_large", "The request body is too large"


class InvalidEncoding(LimelightError):
    code, title = "invalid_encoding", "The body does not have its Content-Encoding"


class UnsupportedEncoding(LimelightError):
    code, title = "unsupported_encoding", "Not a Content-Encoding that is accepted"


STATUS: dict[type[LimelightError], int] = {
    MalformedRequest: 400,
    errors.MissingImage: 400,
    InvalidMultipart: 400,
    InvalidEncoding: 400,
    NoSuchRoute: 404,
    errors.UnknownModel: 404,
    MethodNotAllowed: 405,
    RequestTimeout: 408,
    BodyTooLarge: 413,
    errors.ImageTooLarge: 413,
    errors.UnsupportedMediaType: 415,
    UnsupportedEncoding: 415,
    errors.ImageTooComplex: 422,
    errors.UndecodableImage: 422,
    errors.UnknownTarget: 422,
    errors.UnsupportedMethod: 422,
    errors.InvalidParameter: 422,
    HeadTooLarge: 431,
    errors.ClientGone: 499,
    errors.InternalError: 500,
    errors.NotReady: 503,
    errors.Draining: 503,
    errors.DeadlineExceeded: 503,
    errors.Overloaded: 503,
}
"""HTTP status of each error that a client can receive."""


def status_of(kind: type[LimelightError]) -> int:
    """Return the HTTP status of a kind of error."""
    return STATUS[kind]


def headers_of(error: LimelightError) -> list[tuple[bytes, bytes]]:
    """Return the headers of an error: `Retry-After` in seconds, `Allow`, `Accept-Encoding`."""
    if isinstance(error, errors.Unavailable):
        return [(b"retry-after", b"%d" % max(1, math.ceil(error.retry_after_s)))]
    if isinstance(error, MethodNotAllowed):
        return [(b"allow", error.allowed.encode())]
    if isinstance(error, UnsupportedEncoding):
        return [(b"accept-encoding", b"gzip, deflate")]
    return []
