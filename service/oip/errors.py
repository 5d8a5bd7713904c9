"""How a refusal is told: in the protocol's form, and by its status."""

import orjson

from limelight.errors import ServiceError, UnsupportedMediaType
from service.http.messages import Response

_INVALID = 400
# Elsewhere in the service a status of its own says that a readable request cannot be answered.
_UNPROCESSABLE = 422


def http_status(error: ServiceError) -> int:
    """The error's own; 400 for whatever is wrong with a parameter or an image, as Triton has it."""
    if error.status == _UNPROCESSABLE or isinstance(error, UnsupportedMediaType):
        return _INVALID
    return error.status


def error_response(error: ServiceError) -> Response:
    """``{"error": "..."}``, which is all that the protocol's clients read."""
    headers = [(name.lower().encode(), value.encode()) for name, value in error.headers.items()]
    body = orjson.dumps({"error": error.detail})
    return Response(body, http_status(error), b"application/json", headers)
