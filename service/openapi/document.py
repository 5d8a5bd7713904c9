"""The OpenAPI 3.1 document: every route, every answer, every error."""

from limelight import errors
from limelight.errors import LimelightError
from limelight.explanations.methods import METHODS
from limelight.explanations.options import OverlayStyle
from limelight.explanations.overlay import COLORMAPS
from limelight.imaging.formats import media_types
from limelight.result_builder import DEFAULT_TOP_K
from service.http import errors as http_errors
from service.openapi import oip
from service.openapi.parts import Json, answer, parameter, reference
from service.openapi.schemas import schemas
from service.settings import Settings

_STYLE = OverlayStyle()
_UPLOAD_ERRORS = (
    errors.MissingImage,
    http_errors.InvalidMultipart,
    errors.UnknownModel,
    http_errors.RequestTimeout,
    http_errors.BodyTooLarge,
    errors.ImageTooLarge,
    errors.UnsupportedMediaType,
    errors.UndecodableImage,
    errors.InvalidParameter,
    errors.InternalError,
    errors.NotReady,
    errors.DeadlineExceeded,
    errors.Overloaded,
)


def document(settings: Settings) -> Json:
    """The document of a service with these settings, as a tree that JSON can hold."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Limelight",
            "version": "1",
            "summary": "Image classifiers that show what they looked at.",
            "description": "Every error is a Problem, below /v2 an OipError; unknown paths are "
            "404 (`no_such_route`), other methods 405 (`method_not_allowed`) with `Allow`.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "paths": {
            "/predict": {"post": _predict(settings)},
            "/explain": {"post": _explain(settings)},
            "/models": {
                "get": _read("List the models that are served", "Models", operation="list_models")
            },
            "/models/{name}": {
                "get": {
                    **_read(
                        "One model, as it was loaded",
                        "Model",
                        errors.UnknownModel,
                        errors.NotReady,
                        operation="get_model",
                    ),
                    "parameters": [parameter("name", {"type": "string"}, "", place="path")],
                }
            },
            "/livez": {"get": _read("Whether the process answers", "Status", operation="livez")},
            "/healthz": {
                "get": _read("As /livez, and whether it is ready", "Health", operation="healthz")
            },
            "/readyz": {
                "get": _read(
                    "200 when every model is loaded, verified and warm, on the device demanded",
                    "Status",
                    errors.NotReady,
                    errors.Draining,
                    operation="readyz",
                )
            },
            "/metrics": {
                "get": {
                    "operationId": "metrics",
                    "summary": "Prometheus metrics, over all workers",
                    "responses": {
                        "200": {
                            "description": "Text exposition format",
                            "content": {"text/plain": {"schema": {"type": "string"}}},
                        },
                        **_problems(errors.InternalError),
                    },
                }
            },
            "/openapi.json": {"get": _read("This document", "Document", operation="openapi")},
            "/docs.json": {"get": _read("This document", "Document", operation="docs")},
            "/schema.json": {
                "get": _read(
                    "What BentoML's own clients ask for", "Document", operation="bentoml_schema"
                )
            },
            "/": {"get": _page()},
            **oip.paths(settings),
        },
        "components": {"schemas": schemas() | oip.schemas()},
    }


def _predict(settings: Settings) -> Json:
    return {
        "operationId": "predict",
        "summary": "Classify an image",
        "parameters": _shared_parameters(),
        "requestBody": _upload(settings),
        "responses": {
            "200": answer("The most probable classes", "Prediction"),
            **_problems(*_UPLOAD_ERRORS),
        },
    }


def _explain(settings: Settings) -> Json:
    success = answer("The classes, and the map of one of them", "Explanation")
    success["content"]["image/png"] = {"schema": {"type": "string", "format": "binary"}}
    return {
        "operationId": "explain",
        "summary": "Classify an image and show what the network looked at",
        "description": "The map comes from the same pass as the prediction. Its mean over the "
        "positions, plus the class's bias, is the class's logit. "
        "`Accept: image/png` or `format=png` gives the upload with the map laid over it.",
        "parameters": [
            *_shared_parameters(),
            parameter(
                "target",
                {"type": "string"},
                "Class whose map is wanted, a label or an index; the winner's by default. "
                "`all` adds `cams`, the maps of every class.",
            ),
            parameter(
                "method",
                {"enum": list(METHODS), "default": "cam"},
                "; ".join(f"`{name}`: {method.summary}" for name, method in METHODS.items())
                + ". A model's manifest lists its own under `methods`.",
            ),
            parameter(
                "against",
                {"type": "string"},
                "For a contrast: the other class; the most probable one by default.",
            ),
            parameter(
                "evaluations",
                {"type": "integer", "minimum": 4, "maximum": settings.max_evaluations},
                "At most so many masked images, for the methods that mask.",
            ),
            parameter(
                "zoom",
                {"type": "boolean", "default": False},
                "Adds `zoom`: what the network says of the part of a large image that mattered "
                "most, where there is more to see in it.",
            ),
            parameter(
                "format",
                {"enum": ["json", "png"]},
                "Overrides the Accept header.",
            ),
            parameter(
                "opacity",
                {"type": "number", "minimum": 0, "maximum": 1, "default": _STYLE.opacity},
                "Of the map over the upload.",
            ),
            parameter(
                "colormap",
                {"enum": list(COLORMAPS), "default": _STYLE.colormap},
                "Colours of the map.",
            ),
        ],
        "requestBody": _upload(settings),
        "responses": {
            "200": success,
            **_problems(*_UPLOAD_ERRORS, errors.UnknownTarget, errors.UnsupportedMethod),
        },
    }


def _shared_parameters() -> list[Json]:
    return [
        parameter(
            "model",
            {"type": "string"},
            "Name of a model in /models; without it, the one that is `default` there answers.",
        ),
        parameter(
            "top_k",
            {"type": "integer", "minimum": 1, "default": DEFAULT_TOP_K},
            "How many classes to name, at most as many as the model has.",
        ),
        parameter(
            "X-Timeout-Ms",
            {"type": "number", "exclusiveMinimum": 0},
            "What cannot be answered in this time is refused at once, at most the service's own.",
            place="header",
        ),
        parameter(
            "X-Request-Id",
            {"type": "string", "maxLength": 128},
            "Comes back with the answer, and stands in the log.",
            place="header",
        ),
    ]


def _upload(settings: Settings) -> Json:
    binary: Json = {"type": "string", "format": "binary"}
    content: Json = {
        media_type: {"schema": binary}
        for media_type in (*sorted(media_types()), "application/octet-stream")
    }
    content["multipart/form-data"] = {
        "schema": {"type": "object", "required": ["image"], "properties": {"image": binary}}
    }
    return {
        "required": True,
        "description": f"An image of at most {settings.max_bytes} bytes and "
        f"{settings.max_pixels} pixels, raw or as the multipart field `image`.",
        "content": content,
    }


def _page() -> Json:
    html = {"text/html": {"schema": {"type": "string"}}}
    return {
        "operationId": "page",
        "summary": "A web page to try the models on, with its files under /page and /examples",
        "responses": {
            "200": {"description": "HTML", "content": html},
            "304": {"description": "As it was, for `If-None-Match`"},
            **_problems(errors.InternalError),
        },
    }


def _read(summary: str, schema: str, *raised: type[LimelightError], operation: str) -> Json:
    return {
        "operationId": operation,
        "summary": summary,
        "responses": {"200": answer(summary, schema), **_problems(*raised, errors.InternalError)},
    }


def _problems(*raised: type[LimelightError]) -> Json:
    """One response a status, which names the codes that it may carry."""
    by_status: dict[int, list[type[LimelightError]]] = {}
    for error in dict.fromkeys(raised):
        by_status.setdefault(http_errors.status_of(error), []).append(error)
    responses: Json = {}
    for status, kinds in sorted(by_status.items()):
        codes = {"properties": {"code": {"enum": [error.code for error in kinds]}}}
        responses[str(status)] = {
            "description": "; ".join(f"`{error.code}`: {error.title}" for error in kinds),
            "content": {
                "application/problem+json": {"schema": {"allOf": [reference("Problem"), codes]}}
            },
        }
        if status == 503:
            responses[str(status)]["headers"] = {
                "Retry-After": {"description": "Seconds to wait", "schema": {"type": "integer"}}
            }
    return responses
