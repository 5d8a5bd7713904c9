"""HTTP status and headers of each error, except those of the Open Inference Protocol alone."""

import math

from limelight import errors
from limelight.errors import LimelightError
from service.errors import (
    BodyTooLarge,
    HeadTooLarge,
    InvalidEncoding,
    InvalidMultipart,
    MalformedRequest,
    MethodNotAllowed,
    NoSuchRoute,
    PermissionDenied,
    RateLimited,
    RepositoryConflict,
    RequestTimeout,
    Unauthenticated,
    UnsupportedEncoding,
)
from service.headers import Header

# RFC 6750, section 3.
_CHALLENGE = b'Bearer realm="limelight"'
_INVALID = b', error="invalid_token"'

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


def headers_of(error: LimelightError) -> list[Header]:
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
