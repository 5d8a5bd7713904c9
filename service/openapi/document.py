"""OpenAPI 3.1 document: all routes, responses and errors."""

from limelight import errors
from limelight.errors import LimelightError
from limelight.explanations.methods import METHODS
from limelight.explanations.options import OverlayStyle
from limelight.explanations.overlay import COLORMAPS
from limelight.imaging.formats import media_types
from limelight.result_builder import DEFAULT_TOP_K
from service import errors as service_errors
from service.caller import CRITICALITIES
from service.openapi import oip
from service.openapi.keys import with_keys
from service.openapi.parts import Json, answer, parameter, problems
from service.openapi.schemas import schemas
from service.settings import Settings

_STYLE = OverlayStyle()
_UPLOAD_ERRORS = (
    errors.MissingImage,
    service_errors.InvalidMultipart,
    service_errors.InvalidEncoding,
    errors.UnknownModel,
    service_errors.RequestTimeout,
    service_errors.BodyTooLarge,
    errors.ImageTooLarge,
    errors.UnsupportedMediaType,
    service_errors.UnsupportedEncoding,
    errors.UndecodableImage,
    errors.InvalidParameter,
    errors.InternalError,
    errors.NotReady,
    errors.DeadlineExceeded,
    errors.Overloaded,
)


def document(settings: Settings) -> Json:
    """Return the document for a service with these settings, as a JSON tree."""
    tree = _document(settings)
    for item in tree["paths"].values():
        for operation in item.values():
            if isinstance(operation, dict):
                operation.setdefault("tags", ["Limelight"])
    return with_keys(tree, settings) if settings.keys_file is not None else tree


def _document(settings: Settings) -> Json:
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Limelight",
            "version": "1",
            "summary": "Image classifiers that show what they looked at.",
            "description": "Every error is a Problem, below /v2 an OipError; unknown paths are "
            "404 (`no_such_route`), other methods 405 (`method_not_allowed`) with `Allow`; "
            "requests that are not HTTP are 400 (`malformed_request`), heads over the limit 431 "
            "(`head_too_large`).",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/", "description": "The host that serves this document"}],
        "paths": {
            "/predict": {"post": _predict(settings)},
            "/explain": {"post": _explain(settings)},
            "/models": {
                "get": _read("List the models that are served", "Models", operation="list_models")
            },
            "/models/{name}": {
                "get": {
                    **_read(
                        "Describe one model",
                        "Model",
                        errors.UnknownModel,
                        errors.NotReady,
                        operation="get_model",
                    ),
                    "parameters": [parameter("name", {"type": "string"}, "", place="path")],
                }
            },
            "/livez": {
                "get": _read("Check that the process responds", "Status", operation="livez")
            },
            "/healthz": {
                "get": _read("Check liveness and readiness", "Health", operation="healthz")
            },
            "/readyz": {
                "get": _read(
                    "Status 200 if every model is loaded, verified and warmed up on its device",
                    "Status",
                    errors.NotReady,
                    errors.Draining,
                    operation="readyz",
                )
            },
            "/metrics": {
                "get": {
                    "operationId": "metrics",
                    "summary": "Prometheus metrics, summed over all workers",
                    "responses": {
                        "200": {
                            "description": "Text exposition format",
                            "content": {"text/plain": {"schema": {"type": "string"}}},
                        },
                        **problems(errors.InternalError),
                    },
                }
            },
            "/openapi.json": {"get": _read("This document", "Document", operation="openapi")},
            "/docs.json": {"get": _read("This document", "Document", operation="docs")},
            "/schema.json": {
                "get": _read("Schema for BentoML's clients", "Document", operation="bentoml_schema")
            },
            "/": {
                "get": _page(
                    "page", "Web page to try the models, with its files under /page and /examples"
                )
            },
            "/docs": {
                "get": _page("docs_page", "Web page to read this document and to try it out")
            },
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
            **problems(*_UPLOAD_ERRORS),
        },
    }


def _explain(settings: Settings) -> Json:
    success = answer("The most probable classes, and the map of one of them", "Explanation")
    success["content"]["image/png"] = {"schema": {"type": "string", "format": "binary"}}
    return {
        "operationId": "explain",
        "summary": "Classify an image and show what the network looked at",
        "description": "The map comes from the same forward pass as the prediction. Its mean over "
        "the positions, plus the bias of the class, is the logit of the class. "
        "`Accept: image/png` or `format=png` returns the upload with the map drawn over it.",
        "parameters": [
            *_shared_parameters(),
            parameter(
                "target",
                {"type": "string"},
                "Class of the map, as a label or an index; by default the most probable class. "
                "`all` adds `cams`, the maps of all classes.",
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
                "For the contrastive method: the other class; by default the most probable one.",
            ),
            parameter(
                "evaluations",
                {"type": "integer", "minimum": 4, "maximum": settings.max_evaluations},
                "Maximum number of masked images, for the methods that mask.",
            ),
            parameter(
                "zoom",
                {"type": "boolean", "default": False},
                "Adds `zoom`: the prediction for a zoomed crop around the most important part, "
                "if the upload is large enough to show more detail there.",
            ),
            parameter(
                "format",
                {"enum": ["json", "png"]},
                "Overrides the Accept header.",
            ),
            parameter(
                "opacity",
                {"type": "number", "minimum": 0, "maximum": 1, "default": _STYLE.opacity},
                "Opacity of the map over the upload.",
            ),
            parameter(
                "colormap",
                {"enum": list(COLORMAPS), "default": _STYLE.colormap},
                "Colour map.",
            ),
        ],
        "requestBody": _upload(settings),
        "responses": {
            "200": success,
            **problems(*_UPLOAD_ERRORS, errors.UnknownTarget, errors.UnsupportedMethod),
        },
    }


def _shared_parameters() -> list[Json]:
    return [
        parameter(
            "model",
            {"type": "string"},
            "Name of a model in /models; by default the model that is `default` there.",
        ),
        parameter(
            "version",
            {"type": "string"},
            "Served version of the model, or its label; by default the version that is `active` "
            "in /models.",
        ),
        parameter(
            "top_k",
            {"type": "integer", "minimum": 1, "default": DEFAULT_TOP_K},
            "Number of classes to return, at most the number of classes of the model.",
        ),
        parameter(
            "X-Timeout-Ms",
            {"type": "number", "exclusiveMinimum": 0},
            "Time limit in milliseconds; it can only shorten the limit of the service. A request "
            "that would exceed it is rejected at once.",
            place="header",
        ),
        parameter(
            "X-Criticality",
            {"enum": list(CRITICALITIES), "default": "default"},
            "Under load, sheddable requests are rejected first, and critical ones last.",
            place="header",
        ),
        parameter(
            "X-Request-Id",
            {"type": "string", "maxLength": 128},
            "Returned with the response, and written to the log.",
            place="header",
        ),
    ]


def _upload(settings: Settings) -> Json:
    binary: Json = {"type": "string", "format": "binary"}
    content: Json = {
        media_type: {"schema": binary}
        for media_type in ("application/octet-stream", *sorted(media_types()))
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


def _page(operation: str, summary: str) -> Json:
    html = {"text/html": {"schema": {"type": "string"}}}
    return {
        "operationId": operation,
        "summary": summary,
        "responses": {
            "200": {"description": "HTML", "content": html},
            "304": {"description": "Not modified, for `If-None-Match`"},
            **problems(errors.InternalError),
        },
    }


def _read(summary: str, schema: str, *raised: type[LimelightError], operation: str) -> Json:
    return {
        "operationId": operation,
        "summary": summary,
        "responses": {"200": answer(summary, schema), **problems(*raised, errors.InternalError)},
    }
