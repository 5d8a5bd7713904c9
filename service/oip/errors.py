"""Errors of the Open Inference Protocol: their form, and the statuses that differ from HTTP's."""

import orjson

from limelight import errors
from limelight.errors import LimelightError
from service.http.messages import Response
from service.http.statuses import STATUS, headers_of


class InvalidInference(LimelightError):
    code, title = "invalid_inference", "Not a valid inference request"


# Errors in a parameter or an image have status 400, as in Triton.
_STATUS: dict[type[LimelightError], int] = STATUS | {
    InvalidInference: 400,
    errors.UnsupportedMediaType: 400,
    errors.UndecodableImage: 400,
    errors.UnknownTarget: 400,
    errors.UnsupportedMethod: 400,
    errors.InvalidParameter: 400,
}


def status_of(kind: type[LimelightError]) -> int:
    """Return the HTTP status of a kind of error under the protocol's paths."""
    return _STATUS[kind]


def error_response(error: LimelightError) -> Response:
    """Return an error in the protocol's form, ``{"error": "..."}``."""
    body = orjson.dumps({"error": error.detail})
    return Response(body, status_of(type(error)), b"application/json", headers_of(error))
