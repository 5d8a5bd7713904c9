"""Parameters of a request, from its query or form fields and its Accept header."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from limelight.errors import InvalidParameter
from limelight.explanations.methods import METHODS
from limelight.explanations.options import ALL, ExplainOptions, OverlayStyle
from service.http.messages import MAX_CACHED_TEXT

NAMES: dict[str, tuple[str, ...]] = {
    "/predict": ("model", "version", "top_k"),
    "/explain": (
        *("model", "version", "top_k", "target", "method", "against", "evaluations", "zoom"),
        *("format", "opacity", "colormap"),
    ),
}
"""Names of the parameters of each route that has some."""

_DEFAULT = OverlayStyle()


def check_names(query: Mapping[str, str], route: str) -> None:
    """Check that the query has no other parameters than those of its route.

    Raises:
        InvalidParameter: a parameter is unknown, such as a misspelled one.
    """
    known = NAMES[route]
    for name in query:
        if name not in known:
            raise InvalidParameter(
                f"there is no parameter {name[:100]!r}: {route} takes {', '.join(known)}"
            )


@dataclass(frozen=True, slots=True)
class PredictParameters:
    """Parameters of /predict; `top_k` is None if the client did not set it."""

    top_k: int | None

    @classmethod
    def parse(cls, query: Mapping[str, str]) -> "PredictParameters":
        """Parse the query or form fields.

        Raises:
            InvalidParameter: a parameter is malformed.
        """
        return cls(top_k=_count(query, "top_k"))


@dataclass(frozen=True, slots=True)
class ExplainParameters:
    """Parameters of /explain; `top_k` is None if the client did not set it."""

    top_k: int | None
    options: ExplainOptions
    style: OverlayStyle | None
    """Style of the picture; None: the response is JSON."""

    @classmethod
    def parse(cls, query: Mapping[str, str], accept: str) -> "ExplainParameters":
        """Parse the query or form fields and the Accept header.

        Raises:
            InvalidParameter: a parameter is malformed, whether or not it is used.
        """
        if _EXPLAIN_NAMES.isdisjoint(query):  # the usual case
            return _AS_PICTURE if _prefers_png(accept) else _AS_JSON
        return cls._read(query, accept)

    @classmethod
    def _read(cls, query: Mapping[str, str], accept: str) -> "ExplainParameters":
        style = read_style(query)
        wants_png = _format(query, accept) == "png"
        options = ExplainOptions(
            target=query.get("target"),
            method=_method(query),
            against=query.get("against"),
            evaluations=_count(query, "evaluations"),
            zoom=_flag(query, "zoom"),
        )
        if wants_png and options.target == ALL:
            raise InvalidParameter("a picture shows one map: name one class, or request JSON")
        if wants_png and options.zoom:
            raise InvalidParameter("a picture shows one map: omit zoom, or request JSON")
        return cls(
            top_k=_count(query, "top_k"), options=options, style=style if wants_png else None
        )


def _count(query: Mapping[str, str], name: str) -> int | None:
    text = query.get(name)
    if text is None:
        return None
    number = parse_count(text)
    if number is None:
        raise InvalidParameter(f"{name} is {text[:100]!r}, and must be a positive integer")
    return number


def parse_count(text: str) -> int | None:
    """Return the number that a text of fewer than 10 digits is; None if it is no such text."""
    return int(text) if len(text) < 10 and text.isascii() and text.isdigit() else None


def _flag(query: Mapping[str, str], name: str) -> bool:
    text = query.get(name, "false")
    if text not in ("true", "false"):
        raise InvalidParameter(f"{name} is {text[:100]!r}, and must be true or false")
    return text == "true"


def _method(query: Mapping[str, str]) -> str:
    text = query.get("method", "cam")
    if text in METHODS:
        return text
    raise InvalidParameter(f"method is {text[:100]!r}, and must be one of {', '.join(METHODS)}")


def read_style(parameters: Mapping[str, object]) -> OverlayStyle:
    """Read `opacity`, as a number or as text, and `colormap`.

    Raises:
        InvalidParameter: one of them is out of range.
    """
    given = parameters.get("opacity", _DEFAULT.opacity)
    try:
        opacity = float(str(given))
    except ValueError as error:
        raise InvalidParameter(
            f"opacity is {str(given)[:100]!r}, and must be a number from 0 to 1"
        ) from error
    return OverlayStyle(
        opacity=opacity, colormap=str(parameters.get("colormap", _DEFAULT.colormap))
    )


def _format(query: Mapping[str, str], accept: str) -> Literal["json", "png"]:
    match query.get("format"):
        case "json":
            return "json"
        case "png":
            return "png"
        case None:
            return "png" if _prefers_png(accept) else "json"
        case other:
            raise InvalidParameter(f"format is {other[:100]!r}, and must be json or png")


def _prefers_png(accept: str) -> bool:
    """Return True if Accept prefers PNG to JSON (RFC 9110, 12.5.1); equal weights mean JSON."""
    return (_cached_preference if len(accept) <= MAX_CACHED_TEXT else _read_preference)(accept)


def _read_preference(accept: str) -> bool:
    weights: dict[str, float] = {}
    for entry in accept.lower().split(","):
        media_type, *parameters = (part.strip() for part in entry.split(";"))
        weight = 1.0
        for parameter in parameters:
            if parameter.startswith("q="):
                try:
                    weight = float(parameter[2:])
                except ValueError:
                    weight = 0.0
        weights[media_type] = weight

    def quality(media_type: str) -> float:
        family = media_type.split("/")[0] + "/*"
        return next((weights[key] for key in (media_type, family, "*/*") if key in weights), 0.0)

    return quality("image/png") > quality("application/json")


# The same few values repeat.
_cached_preference = functools.lru_cache(maxsize=256)(_read_preference)
_EXPLAIN_NAMES = frozenset(NAMES["/explain"]) - {"model", "version"}
_AS_JSON = ExplainParameters._read({}, "application/json")
_AS_PICTURE = ExplainParameters._read({}, "image/png")
