"""Results as JSON, in the form that the OpenAPI document promises."""

import json
from typing import Any

from starlette.responses import Response

from service.classifier import ClassActivationMap, Classifier, Prediction
from service.errors import ServiceError


def json_response(
    content: Any,
    status: int = 200,
    media_type: str = "application/json",
    headers: dict[str, str] | None = None,
) -> Response:
    """UTF-8 and compact; a NaN is a bug and raises ValueError."""
    body = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Response(body.encode(), status, headers, media_type)


def problem_response(error: ServiceError) -> Response:
    """An error in the one form that all of them have (RFC 9457)."""
    content = {
        "status": error.status,
        "code": error.code,
        "title": error.title,
        "detail": error.detail,
    }
    return json_response(content, error.status, "application/problem+json", error.headers)


def prediction_content(prediction: Prediction) -> dict[str, Any]:
    """The document's `Prediction`."""
    return {
        "model": prediction.model,
        "version": prediction.version,
        "label": prediction.label,
        "index": prediction.index,
        "confidence": _short(prediction.confidence),
        "scores": [
            {
                "label": score.label,
                "index": score.index,
                "probability": _short(score.probability),
            }
            for score in prediction.scores
        ],
    }


def cam_content(cam: ClassActivationMap) -> dict[str, Any]:
    """The document's `ClassActivationMap`: raw values, and the box in pixels of the upload."""
    box = cam.box
    return {
        "target": cam.target,
        "index": cam.index,
        "shape": list(cam.values_hw.shape),
        "values": [[_short(value) for value in row] for row in cam.values_hw.tolist()],
        "peak": _short(cam.peak),
        "box": [box.left, box.top, box.right, box.bottom],
    }


def model_content(classifier: Classifier, *, default: str) -> dict[str, Any]:
    """The document's `Model`: the manifest, and where the network really runs."""
    manifest = classifier.manifest
    return {
        "name": manifest.name,
        "version": manifest.version,
        "provider": classifier.engine.provider,
        "default": manifest.name == default,
        "manifest": manifest.model_dump(mode="json"),
    }


def _short(value: float) -> float:
    """Eight digits, which is all that a float32 has."""
    return float(f"{value:.8g}")
