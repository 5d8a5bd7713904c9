"""JSON responses, in the form that the OpenAPI document defines."""

from collections.abc import Iterable
from typing import Any

import orjson

from limelight.errors import LimelightError
from limelight.results import content
from service.headers import Header
from service.http.messages import Response
from service.http.statuses import headers_of, status_of
from service.inference.classifier import Classifier
from service.inference.model_registry import ModelRegistry

# Results are dataclasses. orjson's own serialisation would not omit absent fields.
_OPTIONS = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_PASSTHROUGH_DATACLASS


def json_response(answer: Any, status: int = 200, headers: Iterable[Header] = ()) -> Response:
    """Return a response of compact JSON in UTF-8; a float32 has no more digits than needed."""
    body = orjson.dumps(answer, content, _OPTIONS)
    return Response(body, status, b"application/json", headers)


def problem_response(error: LimelightError) -> Response:
    """Return an error as a problem document (RFC 9457), the form of all errors."""
    status = status_of(type(error))
    problem = {
        "status": status,
        "code": error.code,
        "title": error.title,
        "detail": error.detail,
    }
    body = orjson.dumps(problem)
    return Response(body, status, b"application/problem+json", headers_of(error))


def model_content(classifier: Classifier, registry: ModelRegistry) -> dict[str, Any]:
    """Return the `Model` of the OpenAPI document: the manifest, and what runs where and why."""
    manifest = classifier.manifest
    active = registry.served(manifest.name) is classifier
    return {
        "name": manifest.name,
        "version": manifest.version,
        "digest": classifier.digest,
        "signature": classifier.signature,
        "provider": classifier.engine.provider,
        "precision": classifier.engine.precision,
        "precision_reason": classifier.engine.precision_reason,
        "default": manifest.name == registry.default,
        "active": active,
        "rollout": registry.rollout_of(manifest.name) if active else None,
        "labels": registry.labels_of(manifest.name, manifest.version),
        "manifest": manifest.model_dump(mode="json"),
    }


def models_content(registry: ModelRegistry) -> dict[str, Any]:
    """Return the `Models` of the OpenAPI document: every served version, and what was refused."""
    return {
        "models": [model_content(classifier, registry) for classifier in registry.versions],
        "refused": [
            {"name": name, "version": version, "reason": reason}
            for (name, version), reason in registry.refused.items()
        ],
    }
