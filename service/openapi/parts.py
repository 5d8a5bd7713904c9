"""Pieces that the OpenAPI document is made of."""

from collections.abc import Iterable
from typing import Any

Json = dict[str, Any]


def answer(description: str, schema: str) -> Json:
    """A response whose JSON is of a schema in the components."""
    return {
        "description": description,
        "content": {"application/json": {"schema": reference(schema)}},
    }


def parameter(name: str, schema: Json, description: str, *, place: str = "query") -> Json:
    """A parameter of an operation; one in the path is required."""
    described: Json = {"name": name, "in": place, "schema": schema}
    if description:
        described["description"] = description
    if place == "path":
        described["required"] = True
    return described


def reference(schema: str) -> Json:
    """To a schema in the components."""
    return {"$ref": f"#/components/schemas/{schema}"}


def record(required: Iterable[str] | None = None, /, **properties: Json) -> Json:
    """The schema of an object; all its properties are required unless some are named."""
    names = list(properties) if required is None else list(required)
    return {"type": "object", "properties": properties, "required": names}
