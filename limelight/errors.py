"""What a request for a prediction can be told is wrong: a stable code, and what to do about it.

LimelightError
├── MissingImage
├── UnsupportedMediaType   not an image format that is accepted
├── ImageTooLarge
├── UndecodableImage
├── InvalidParameter
├── UnknownTarget
├── UnknownModel
├── UnsupportedMethod
├── Unavailable            which may be over in `retry_after_s` seconds
│   ├── NotReady
│   ├── Draining
│   ├── DeadlineExceeded
│   └── Overloaded
├── ClientGone             which nobody is left to read
└── InternalError

Nothing here knows HTTP: the service's edges say which status an error has.
"""


class LimelightError(Exception):
    """An error for whoever asked; `detail` says what to do next."""

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


class UndecodableImage(LimelightError):
    code, title = "undecodable_image", "The image cannot be decoded"


class InvalidParameter(LimelightError):
    code, title = "invalid_parameter", "A query parameter is out of range"


class UnknownTarget(LimelightError):
    code, title = "unknown_target", "The model has no such class"


class UnknownModel(LimelightError):
    code, title = "unknown_model", "No such model"


class UnsupportedMethod(LimelightError):
    code, title = "unsupported_method", "The model has no such explanation"


class Unavailable(LimelightError):
    """An error that may be over in `retry_after_s` seconds."""

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
    """A failure of the service itself; the log has the cause under the same moment."""
