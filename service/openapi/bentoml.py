"""Schema for `bentoml.SyncHTTPClient`: the service's methods and their arguments."""

from typing import Any

from limelight.explanations.methods import METHODS
from limelight.explanations.overlay import COLORMAPS

Json = dict[str, Any]

_IMAGE: Json = {"type": "file", "format": "image", "title": "Image"}
_INTEGER: Json = {"type": "integer", "minimum": 1}
_STRING: Json = {"type": "string"}


def bentoml_schema() -> Json:
    """Return the document at `/schema.json`: one method for each route that takes an image."""
    shared = {"image": _IMAGE, "model": _STRING, "version": _STRING, "top_k": _INTEGER}
    style = {
        "target": _STRING,
        "method": {"type": "string", "enum": list(METHODS)},
        "against": _STRING,
        "evaluations": _INTEGER,
        "zoom": {"type": "boolean"},
        "opacity": {"type": "number", "minimum": 0, "maximum": 1},
        "colormap": {"type": "string", "enum": list(COLORMAPS)},
    }
    return {
        "name": "limelight",
        "type": "service",
        "routes": [
            _method("predict", "Classify an image.", shared),
            _method(
                "explain",
                "Classify an image and show what the network looked at.",
                # The client parses responses by the type declared here, so it gets JSON and no PNG.
                shared | style,
            ),
        ],
    }


def _method(name: str, text: str, arguments: Json) -> Json:
    return {
        "name": name,
        "route": f"/{name}",
        "doc": text,
        "batchable": False,
        "input": {"type": "object", "properties": arguments, "required": ["image"]},
        "output": {"type": "object"},
    }
