"""Parts of the OpenAPI document: responses, parameters, references and objects."""

from collections.abc import Iterable
from typing import Any

from limelight.errors import LimelightError
from service.http.statuses import status_of

Json = dict[str, Any]


def answer(description: str, schema: str) -> Json:
    """Return a response whose JSON has a schema in the components."""
    return {
        "description": description,
        "content": {"application/json": {"schema": reference(schema)}},
    }


def parameter(name: str, schema: Json, description: str, *, place: str = "query") -> Json:
    """Return a parameter of an operation; a path parameter is required."""
    described: Json = {"name": name, "in": place, "schema": schema}
    if description:
        described["description"] = description
    if place == "path":
        described["required"] = True
    return described


def reference(schema: str) -> Json:
    """Return a reference to a schema in the components."""
    return {"$ref": f"#/components/schemas/{schema}"}


def record(required: Iterable[str] | None = None, /, **properties: Json) -> Json:
    """Return the schema of an object; all properties are required unless `required` names some."""
    names = list(properties) if required is None else list(required)
    return {"type": "object", "properties": properties, "required": names}


def problems(*raised: type[LimelightError]) -> Json:
    """Return one response per status, with the error codes that it can have."""
    by_status: dict[int, list[type[LimelightError]]] = {}
    for error in dict.fromkeys(raised):
        by_status.setdefault(status_of(error), []).append(error)
    responses: Json = {}
    for status, kinds in sorted(by_status.items()):
        codes = {"properties": {"code": {"enum": [error.code for error in kinds]}}}
        responses[str(status)] = {
            "description": "; ".join(f"`{error.code}`: {error.title}" for error in kinds),
            "content": {
                "application/problem+json": {"schema": {"allOf": [reference("Problem"), codes]}}
            },
        }
        if status in (429, 503):
            responses[str(status)]["headers"] = {
                "Retry-After": {"description": "Seconds to wait", "schema": {"type": "integer"}}
            }
    return responses
