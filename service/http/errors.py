"""Errors of the HTTP interface, and the only table that maps errors to HTTP statuses."""

import math
from collections.abc import Iterable

from limelight import errors
from limelight.errors import LimelightError

# RFC 6750, section 3.
_CHALLENGE = b'Bearer realm="limelight"'
_INVALID = b', error="invalid_token"'


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


class Unauthenticated(LimelightError):
    """The request has no API key, or one that is not valid.

    Attributes:
        given: True if it has one.
    """

    code, title = "unauthenticated", "A valid API key is needed"

    def __init__(self, detail: str, *, given: bool) -> None:
        super().__init__(detail)
        self.given = given


class PermissionDenied(LimelightError):
    """The API key lacks a scope.

    Attributes:
        scopes: names of the scopes, one of which is needed.
    """

    code, title = "permission_denied", "The API key does not have this scope"

    def __init__(self, detail: str, *, scopes: str) -> None:
        super().__init__(detail)
        self.scopes = scopes

    @classmethod
    def of(cls, scopes: Iterable[str]) -> "PermissionDenied":
        """Return the error for a key that has none of `scopes`."""
        names = list(scopes)
        return cls(
            f"this needs a key with the scope {' or '.join(names)}: ask the operator for one",
            scopes=" ".join(names),
        )


class RepositoryConflict(LimelightError):
    code, title = "repository_conflict", "The model cannot be unloaded"


class RateLimited(errors.Unavailable):
    code, title = "rate_limited", "The API key has sent too many requests"


STATUS: dict[type[LimelightError], int] = {
    MalformedRequest: 400,
    errors.MissingImage: 400,
    InvalidMultipart: 400,
    InvalidEncoding: 400,
    Unauthenticated: 401,
    PermissionDenied: 403,
    NoSuchRoute: 404,
    errors.UnknownModel: 404,
    MethodNotAllowed: 405,
    RequestTimeout: 408,
    RepositoryConflict: 409,
    BodyTooLarge: 413,
    errors.ImageTooLarge: 413,
    errors.UnsupportedMediaType: 415,
    UnsupportedEncoding: 415,
    errors.ImageTooComplex: 422,
    errors.UndecodableImage: 422,
    errors.UnknownTarget: 422,
    errors.UnsupportedMethod: 422,
    errors.InvalidParameter: 422,
    RateLimited: 429,
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
    """Return the headers of an error: `Retry-After` in seconds, `Allow`, `WWW-Authenticate`, ..."""
    if isinstance(error, errors.Unavailable):
        return [(b"retry-after", b"%d" % max(1, math.ceil(error.retry_after_s)))]
    if isinstance(error, MethodNotAllowed):
        return [(b"allow", error.allowed.encode())]
    if isinstance(error, UnsupportedEncoding):
        return [(b"accept-encoding", b"gzip, deflate")]
    if isinstance(error, Unauthenticated):
        return [(b"www-authenticate", _CHALLENGE + (_INVALID if error.given else b""))]
    if isinstance(error, PermissionDenied):
        missing = f', error="insufficient_scope", scope="{error.scopes}"'
        return [(b"www-authenticate", _CHALLENGE + missing.encode())]
    return []
