"""Exceptions of a prediction request: each has a stable code and says what to do.

LimelightError
├── MissingImage
├── UnsupportedMediaType   the image format is not accepted
├── ImageTooLarge
├── ImageTooComplex        too many parts, or too slow to decode
├── UndecodableImage
├── InvalidParameter
├── UnknownTarget
├── UnknownModel
├── UnsupportedMethod
├── Unavailable            temporary: retry after `retry_after_s` seconds
│   ├── NotReady
│   ├── Draining
│   ├── DeadlineExceeded
│   └── Overloaded
├── ClientGone             the client has disconnected and receives no answer
└── InternalError

This module is independent of HTTP: the service's endpoints map each error to a status.
"""


class LimelightError(Exception):
    """Base class of all errors that a caller receives; `detail` says what to do next."""

    code: str = "internal_error"
    title: str = "Internal error"

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class MissingImage(LimelightError):
    code, title = "missing_image", "No image in the request"


class UnsupportedMediaType(LimelightError):
    code, title = "unsupported_media_type", "Not an image format that is accepted"


class ImageTooLarge(LimelightError):
    code, title = "image_too_large", "The image has too many pixels"


class ImageTooComplex(LimelightError):
    code, title = "image_too_complex", "The image takes too long to decode"


class UndecodableImage(LimelightError):
    code, title = "undecodable_image", "The image cannot be decoded"


class InvalidParameter(LimelightError):
    code, title = "invalid_parameter", "A parameter is unknown or out of range"


class UnknownTarget(LimelightError):
    code, title = "unknown_target", "The model has no such class"


class UnknownModel(LimelightError):
    code, title = "unknown_model", "No such model"


class UnsupportedMethod(LimelightError):
    code, title = "unsupported_method", "The model has no such explanation"


class Unavailable(LimelightError):
    """Temporary error: the same request may succeed after `retry_after_s` seconds."""

    def __init__(self, detail: str, *, retry_after_s: float) -> None:
        super().__init__(detail)
        self.retry_after_s = retry_after_s


class NotReady(Unavailable):
    code, title = "not_ready", "The service is not ready"


class Draining(Unavailable):
    code, title = "draining", "The service is shutting down"


class DeadlineExceeded(Unavailable):
    code, title = "deadline", "The answer would come too late"


class Overloaded(Unavailable):
    code, title = "overloaded", "Too many requests are waiting"


class ClientGone(LimelightError):
    code, title = "client_gone", "The client left before the answer"


class InternalError(LimelightError):
    """Failure of the service itself; the log has the cause at the same time."""
