"""Results as JSON, in the form that the OpenAPI document promises."""

from collections.abc import Iterable
from typing import Any

import orjson

from limelight.errors import LimelightError
from limelight.results import content
from service.http.errors import headers_of, status_of
from service.http.messages import Response
from service.inference.classifier import Classifier

# Results are dataclasses: orjson's own way with them does not leave out what is absent.
_OPTIONS = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_PASSTHROUGH_DATACLASS


def json_response(
    answer: Any, status: int = 200, headers: Iterable[tuple[bytes, bytes]] = ()
) -> Response:
    """UTF-8 and compact; a float32 has no more digits than it holds."""
    body = orjson.dumps(answer, content, _OPTIONS)
    return Response(body, status, b"application/json", headers)


def problem_response(error: LimelightError) -> Response:
    """An error in the one form that all of them have (RFC 9457)."""
    status = status_of(type(error))
    problem = {
        "status": status,
        "code": error.code,
        "title": error.title,
        "detail": error.detail,
    }
    body = orjson.dumps(problem)
    return Response(body, status, b"application/problem+json", headers_of(error))


def model_content(classifier: Classifier, *, default: str) -> dict[str, Any]:
    """The document's `Model`: the manifest, and where the network really runs."""
    manifest = classifier.manifest
    return {
        "name": manifest.name,
        "version": manifest.version,
        "provider": classifier.engine.provider,
        "precision": classifier.engine.precision,
        "default": manifest.name == default,
        "manifest": manifest.model_dump(mode="json"),
    }
