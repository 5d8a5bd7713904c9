"""Everything a client can be told is wrong. Each has a status, a stable code and a way out.

ServiceError
├── MissingImage          400
├── InvalidMultipart      400
├── InvalidInference      400
├── NoSuchRoute           404
├── UnknownModel          404
├── MethodNotAllowed      405
├── RequestTimeout        408
├── BodyTooLarge          413
├── ImageTooLarge         413
├── UnsupportedMediaType  415
├── UnsupportedEncoding   415
├── UndecodableImage      422
├── UnknownTarget         422
├── InvalidParameter      422
├── ClientGone            499, which nobody is left to read
├── InternalError         500
├── NotReady              503
├── Draining              503
├── DeadlineExceeded      503
└── Overloaded            503
"""


class ServiceError(Exception):
    """An error of the service's HTTP interface; `detail` tells the client what to do next."""

    status: int = 500
    code: str = "internal_error"
    title: str = "Internal error"

    def __init__(self, detail: str, **headers: str) -> None:
        """`headers` go with the answer, underscores for hyphens: ``Retry_After="1"``."""
        super().__init__(detail)
        self.detail = detail
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


class MissingImage(ServiceError):
    status, code, title = 400, "missing_image", "No image in the request"


class InvalidMultipart(ServiceError):
    status, code, title = 400, "invalid_multipart", "The multipart body cannot be parsed"


class InvalidInference(ServiceError):
    status, code, title = 400, "invalid_inference", "Not an inference request that can be read"


class NoSuchRoute(ServiceError):
    status, code, title = 404, "no_such_route", "No such route"


class UnknownModel(ServiceError):
    status, code, title = 404, "unknown_model", "No such model"


class MethodNotAllowed(ServiceError):
    status, code, title = 405, "method_not_allowed", "Method not allowed"


class RequestTimeout(ServiceError):
    status, code, title = 408, "request_timeout", "The request's body did not arrive in time"


class BodyTooLarge(ServiceError):
    status, code, title = 413, "body_too_large", "The request body is too large"


class ImageTooLarge(ServiceError):
    status, code, title = 413, "image_too_large", "The image has too many pixels"


class UnsupportedMediaType(ServiceError):
    status, code, title = 415, "unsupported_media_type", "Not an image format that is accepted"


class UnsupportedEncoding(ServiceError):
    status, code, title = 415, "unsupported_encoding", "Not a Content-Encoding that is accepted"


class UndecodableImage(ServiceError):
    status, code, title = 422, "undecodable_image", "The image cannot be decoded"


class UnknownTarget(ServiceError):
    status, code, title = 422, "unknown_target", "The model has no such class"


class UnsupportedMethod(ServiceError):
    status, code, title = 422, "unsupported_method", "The model has no such explanation"


class InvalidParameter(ServiceError):
    status, code, title = 422, "invalid_parameter", "A query parameter is out of range"


class ClientGone(ServiceError):
    status, code, title = 499, "client_gone", "The client left before the answer"


class InternalError(ServiceError):
    """A failure of the service itself; the log has the cause under the same moment."""


class NotReady(ServiceError):
    status, code, title = 503, "not_ready", "The service is not ready"


class Draining(ServiceError):
    status, code, title = 503, "draining", "The service is shutting down"


class DeadlineExceeded(ServiceError):
    status, code, title = 503, "deadline", "The answer would come too late"


class Overloaded(ServiceError):
    status, code, title = 503, "overloaded", "Too many requests are waiting"
