"""Results as JSON, in the form that the OpenAPI document promises."""

from collections.abc import Iterable
from typing import Any

import orjson

from limelight.errors import ServiceError
from limelight.imaging.preprocessing import View
from limelight.results import ClassActivationMap, Explanation, Prediction
from service.http.messages import Response
from service.inference.classifier import Classifier


def json_response(
    content: Any, status: int = 200, headers: Iterable[tuple[bytes, bytes]] = ()
) -> Response:
    """UTF-8 and compact; a float32 has no more digits than it holds."""
    body = orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)
    return Response(body, status, b"application/json", headers)


def problem_response(error: ServiceError) -> Response:
    """An error in the one form that all of them have (RFC 9457)."""
    content = {
        "status": error.status,
        "code": error.code,
        "title": error.title,
        "detail": error.detail,
    }
    headers = [(name.lower().encode(), value.encode()) for name, value in error.headers.items()]
    return Response(orjson.dumps(content), error.status, b"application/problem+json", headers)


def explanation_content(explanation: Explanation) -> dict[str, Any]:
    """The document's `Explanation`: raw values, and the box in pixels of the upload."""
    content = _look_content(explanation.prediction, explanation.view, explanation.cam)
    if explanation.every_cam is not None:
        content["cams"] = [_map_content(cam) for cam in explanation.every_cam]
    if explanation.zoom is not None:
        zoom = explanation.zoom
        content["zoom"] = _look_content(zoom.prediction, zoom.view, zoom.cam)
    return content


def prediction_content(prediction: Prediction) -> dict[str, Any]:
    """The document's `Prediction`."""
    return {
        "model": prediction.model,
        "version": prediction.version,
        "label": prediction.label,
        "index": prediction.index,
        "confidence": prediction.confidence,
        "abstain": prediction.abstain,
        "ood_score": prediction.ood_score,
        "out_of_distribution": prediction.out_of_distribution,
        "scores": [
            {"label": score.label, "index": score.index, "probability": score.probability}
            for score in prediction.scores
        ],
    }


def _look_content(prediction: Prediction, view: View, cam: ClassActivationMap) -> dict[str, Any]:
    content = prediction_content(prediction)
    content["view"] = (view.left, view.top, view.left + view.width, view.top + view.height)
    content["cam"] = _map_content(cam)
    return content


def _map_content(cam: ClassActivationMap) -> dict[str, Any]:
    box = cam.box
    content = {
        "target": cam.target,
        "index": cam.index,
        "method": cam.method,
        "evaluations": cam.evaluations,
        "shape": cam.values_hw.shape,
        "values": cam.values_hw,
        "peak": cam.peak,
        "box": (box.left, box.top, box.right, box.bottom),
    }
    if cam.against is not None:
        content["against"] = cam.against
    return content


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
