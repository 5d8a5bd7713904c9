"""Paths and schemas of the Open Inference Protocol in the OpenAPI document."""

from limelight import errors
from limelight.errors import LimelightError
from service import errors as service_errors
from service.inference.admission import largest_request
from service.oip.errors import InvalidInference, status_of
from service.oip.metadata import IMAGE_BYTES, IMAGES, OVERLAY
from service.oip.rest import ROOT
from service.openapi.parts import Json, answer, record, reference
from service.repository.relay import ACTIONS
from service.settings import Settings

_STRING: Json = {"type": "string"}
_INTEGER: Json = {"type": "integer"}
_COUNT: Json = {"type": "integer", "minimum": 0}
_BINARY: Json = {"type": "string", "format": "binary"}
_UNREADY = (errors.NotReady, errors.Draining)
_UNKNOWN = (errors.UnknownModel, errors.NotReady)
_INFER_ERRORS = (
    InvalidInference,
    service_errors.InvalidEncoding,
    errors.UndecodableImage,
    errors.InvalidParameter,
    errors.UnknownModel,
    service_errors.RequestTimeout,
    service_errors.BodyTooLarge,
    errors.ImageTooLarge,
    service_errors.UnsupportedEncoding,
    errors.NotReady,
    errors.DeadlineExceeded,
    errors.Overloaded,
)


_REPOSITORY_ERRORS = (
    InvalidInference,
    service_errors.InvalidEncoding,
    service_errors.RequestTimeout,
    service_errors.BodyTooLarge,
    service_errors.UnsupportedEncoding,
    errors.Overloaded,
    errors.InternalError,
)


def paths(settings: Settings) -> Json:
    """Return every path below /v2."""
    found: Json = {
        ROOT: _read("Name, version and extensions of the server", "OipServer"),
        f"{ROOT}/health/live": _read("Check that the process responds", "OipLive"),
        f"{ROOT}/health/ready": _read("Check that every model is ready", "OipReady", *_UNREADY),
        f"{ROOT}/models/stats": _read("Statistics of every model", "OipStatistics"),
        f"{ROOT}/repository/index": {"post": _index()},
        **{
            f"{ROOT}/repository/models/{{name}}/{action}": {
                "post": _control(action) | {"operationId": f"oip_{action}_model"},
                "parameters": [_path_parameter("name", _STRING)],
            }
            for action in ACTIONS
        },
    }
    for suffix, name in (("", "model"), ("/versions/{version}", "version")):
        model = f"{ROOT}/models/{{name}}{suffix}"
        parameters = [_path_parameter("name", _STRING)]
        if suffix:
            parameters.append(
                _path_parameter("version", {"type": "string", "pattern": "^(-1|[0-9]+)$"})
            )
        of_model: Json = {
            model: _read("Inputs and outputs of a model", "OipModel", *_UNKNOWN),
            f"{model}/ready": _read(
                "Check that a model is ready", "OipModelReady", *_UNKNOWN, errors.Draining
            ),
            f"{model}/config": _read(
                "Configuration of a model, in Triton's form", "OipConfig", *_UNKNOWN
            ),
            f"{model}/stats": _read(
                "Statistics of a model, over all workers", "OipStatistics", *_UNKNOWN
            ),
            f"{model}/infer": {"post": _infer(settings)},
        }
        for path, item in of_model.items():
            (operation,) = item.values()
            operation["operationId"] = f"oip_{name}_{path.removeprefix(model)[1:] or 'metadata'}"
            found[path] = item | {"parameters": parameters}
    for path, item in found.items():
        for operation in item.values():
            if isinstance(operation, dict):
                default = "oip_" + (path.removeprefix(f"{ROOT}/").replace("/", "_").strip("_"))
                operation.setdefault("operationId", default)
                operation["tags"] = ["Open Inference Protocol"]
    return found


def _read(summary: str, schema: str, *raised: type[LimelightError]) -> Json:
    operation = {
        "summary": summary,
        "responses": {"200": answer("OK", schema), **errors_of(*raised, errors.InternalError)},
    }
    return {"get": operation}


def _index() -> Json:
    return {
        "summary": "List the models, with the reason for each that is not ready",
        "requestBody": {
            "content": {
                "application/json": {
                    "schema": {"type": "object", "properties": {"ready": {"type": "boolean"}}}
                }
            }
        },
        "responses": {
            "200": answer("OK", "OipIndex"),
            **errors_of(*_REPOSITORY_ERRORS),
        },
    }


def _control(action: str) -> Json:
    return {
        "summary": f"{action.capitalize()} a model in all workers",
        "description": "Only for a service with API keys; without them, the management port does "
        "it.",
        "requestBody": {
            "content": {
                "application/json": {
                    "schema": {
                        "type": "object",
                        "properties": {
                            "parameters": {
                                "type": "object",
                                "properties": {"unload_dependents": {"type": "boolean"}},
                                "additionalProperties": False,
                            }
                        },
                    }
                }
            }
        },
        "responses": {
            "200": answer("OK", "OipDone"),
            **errors_of(
                *_REPOSITORY_ERRORS,
                service_errors.PermissionDenied,
                service_errors.RepositoryConflict,
                errors.UnknownModel,
                errors.NotReady,
                errors.Draining,
            ),
        },
    }


def _infer(settings: Settings) -> Json:
    octets = {"application/octet-stream": {"schema": _BINARY}}
    success = answer("OK", "OipInferResponse")
    success["content"] |= octets
    length = "Inference-Header-Content-Length"
    success["headers"] = {
        length: {"description": "Bytes of JSON before the binary tensors", "schema": _INTEGER}
    }
    return {
        "summary": "Run a model on images and return the requested tensors",
        "description": f"Takes `{IMAGES}`, pixels of the network's size, or `{IMAGE_BYTES}`, "
        f"encoded images (base64 in JSON); at most {largest_request(settings)} images. "
        f"Any output in the model's metadata can be requested. `{OVERLAY}` is drawn only on "
        "request; it takes the parameters `target`, `opacity` and `colormap` from the output or "
        "from the request. Tensors are in JSON or, with the binary tensor extension, after it.",
        "parameters": [
            {
                "name": length,
                "in": "header",
                "description": "Bytes of JSON before the binary tensors; 0: the body is one image, "
                "encoded or as pixels.",
                "schema": _COUNT,
            },
            {
                "name": "Content-Encoding",
                "in": "header",
                "schema": {"enum": ["identity", "gzip", "deflate"]},
            },
        ],
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": reference("OipInferRequest")},
                **octets,
            },
        },
        "responses": {"200": success, **errors_of(*_INFER_ERRORS, errors.InternalError)},
    }


def errors_of(*raised: type[LimelightError]) -> Json:
    """Return one response per status that these errors have on the protocol's paths."""
    by_status: dict[int, list[str]] = {}
    for error in raised:
        by_status.setdefault(status_of(error), []).append(error.title)
    responses: Json = {}
    for status, titles in sorted(by_status.items()):
        responses[str(status)] = answer("; ".join(titles), "OipError")
    for temporary in {"429", "503"} & set(responses):
        responses[temporary]["headers"] = {
            "Retry-After": {"description": "Seconds to wait", "schema": _INTEGER}
        }
    return responses


def _path_parameter(name: str, schema: Json) -> Json:
    return {"name": name, "in": "path", "required": True, "schema": schema}


def _list(items: Json) -> Json:
    return {"type": "array", "items": items}


def schemas() -> Json:
    """Return the schemas of the specification, under names with the prefix Oip."""
    parameters: Json = {
        "type": "object",
        "additionalProperties": {"type": ["boolean", "integer", "number", "string"]},
    }
    shape, size = _list(_INTEGER), _list(_COUNT)
    boolean: Json = {"type": "boolean"}
    tensor = record(name=_STRING, datatype=_STRING, shape=shape)
    data: Json = {
        "type": "array",
        "description": "Values in row-major order, nested or flat",
    }
    input_tensor = record(
        ("name", "datatype", "shape"),
        name={"enum": [IMAGES, IMAGE_BYTES]},
        datatype={"enum": ["UINT8", "BYTES"]},
        shape=size,
        data=data,
        parameters=parameters,
    )
    duration = record(count=_COUNT, ns=_COUNT)
    phases = ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output")
    return {
        "OipError": record(error=_STRING),
        "OipServer": record(name=_STRING, version=_STRING, extensions=_list(_STRING)),
        "OipLive": record(live=boolean),
        "OipReady": record(ready=boolean),
        "OipModelReady": record(name=_STRING, ready=boolean),
        "OipModel": record(
            name=_STRING,
            versions=_list(_STRING),
            platform=_STRING,
            inputs=_list(tensor),
            outputs=_list(tensor),
        ),
        "OipConfig": {"type": "object"},
        "OipDone": {"type": "object", "additionalProperties": False},
        "OipIndex": _list(
            record(
                name=_STRING,
                version=_STRING,
                state={"enum": ["READY", "UNAVAILABLE"]},
                reason=_STRING,
            )
        ),
        "OipStatistics": record(
            model_stats=_list(
                record(
                    name=_STRING,
                    version=_STRING,
                    last_inference=_COUNT,
                    inference_count=_COUNT,
                    execution_count=_COUNT,
                    inference_stats=record(**dict.fromkeys(phases, duration)),
                    batch_stats=_list(record(batch_size=_COUNT, compute_infer=duration)),
                )
            )
        ),
        "OipInferRequest": record(
            ("inputs",),
            id=_STRING,
            parameters=parameters,
            inputs=_list(input_tensor) | {"minItems": 1, "maxItems": 1},
            outputs=_list(record(("name",), name=_STRING, parameters=parameters)),
        ),
        "OipInferResponse": record(
            ("model_name", "model_version", "outputs"),
            model_name=_STRING,
            model_version=_STRING,
            id=_STRING,
            outputs=_list(
                record(
                    ("name", "datatype", "shape"),
                    name=_STRING,
                    datatype={"enum": ["FP32", "BYTES"]},
                    shape=size,
                    data={"type": "array"},
                    parameters=parameters,
                )
            ),
        ),
    }
