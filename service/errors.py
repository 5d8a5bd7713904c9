"""Errors of the service that `limelight.errors` does not have."""

from collections.abc import Iterable

from limelight.errors import LimelightError, Unavailable


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


class RateLimited(Unavailable):
    code, title = "rate_limited", "The API key has sent too many requests"
