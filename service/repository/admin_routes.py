"""Routes of the management port: the command of each, and the parameters that it takes."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from service.repository.control import Control, RepositoryError
from service.repository.rollout import PARAMETERS, Rollout
from service.repository.source import NAME

Json = Any
Matched = re.Match[str]
Query = Mapping[str, str]


class InvalidRequestError(Exception):
    """A request is malformed; the message says how to write it."""


def carry_out(control: Control, method: str, target: str) -> Json:
    """Carry out the command that a request names, and return what it answers.

    Raises:
        InvalidRequestError: `target` is no path, or a parameter is unknown or missing.
        RepositoryError: there is no such path, or the command cannot be carried out.
    """
    try:
        parts = urlsplit(target)
    except ValueError as error:
        raise InvalidRequestError(f"{target!r:.100} is no path: {error}") from error
    for route in ROUTES:
        path = re.fullmatch(route.pattern, unquote(parts.path))
        if path is not None and route.method == method:
            return route.command(control, path, _parse(parts.query, route.parameters))
    routes = ", ".join(f"{route.method} {_plain(route.pattern)}" for route in ROUTES)
    raise RepositoryError(f"there is no such path; there are {routes}", found=False)


def _parse(text: str, allowed: tuple[str, ...]) -> Query:
    # Blank values are kept: a variable that a script forgot to set is no parameter left out.
    found = parse_qsl(text, keep_blank_values=True)
    for name, _ in found:
        if name not in allowed:
            there = ", ".join(allowed) or "none"
            raise InvalidRequestError(f"there is no parameter {name!r:.50} (there are: {there})")
    if len(found) > len(dict(found)):
        raise InvalidRequestError("a parameter is there twice: send it once")
    return dict(found)


def _version(query: Query) -> str:
    version = query.get("version", "")
    if not version:
        raise InvalidRequestError("version is missing or empty: send ?version=8, for example")
    return version


def _describe(control: Control, path: Matched, query: Query) -> Json:
    return control.describe()


def _activate(control: Control, path: Matched, query: Query) -> Json:
    control.activate(path["name"], _version(query))
    return control.describe()


def _rollback(control: Control, path: Matched, query: Query) -> Json:
    control.rollback(path["name"])
    return control.describe()


def _label(control: Control, path: Matched, query: Query) -> Json:
    control.label(path["name"], path["label"], _version(query))
    return control.describe()


def _remove_label(control: Control, path: Matched, query: Query) -> Json:
    control.remove_label(path["name"], path["label"])
    return control.describe()


def _start(control: Control, path: Matched, query: Query) -> Json:
    try:
        rollout = Rollout.parse(query)
    except ValueError as error:
        raise InvalidRequestError(str(error)) from error
    control.start(path["name"], rollout)
    return control.describe()


def _finish(control: Control, path: Matched, query: Query) -> Json:
    control.finish(path["name"])
    return control.describe()


def _load(control: Control, path: Matched, query: Query) -> Json:
    control.load(path["name"])
    return {}


def _unload(control: Control, path: Matched, query: Query) -> Json:
    control.unload(path["name"])
    return {}


def _index(control: Control, path: Matched, query: Query) -> Json:
    return control.index()


def _read_level(control: Control, path: Matched, query: Query) -> Json:
    return {"level": control.describe()["log_level"]}


def _set_level(control: Control, path: Matched, query: Query) -> Json:
    control.set_log_level(query.get("level", ""))
    return {"level": control.describe()["log_level"]}


@dataclass(frozen=True, slots=True)
class Route:
    """Route, the command behind it, and the parameters that its query may have."""

    method: str
    pattern: str
    command: Callable[[Control, Matched, Query], Json]
    parameters: tuple[str, ...] = ()


_MODEL = f"/models/(?P<name>{NAME})"
_LABEL = f"{_MODEL}/labels/(?P<label>[^/]{{1,100}})"
ROUTES = (
    Route("GET", "/models", _describe),
    Route("POST", f"{_MODEL}/activate", _activate, ("version",)),
    Route("POST", f"{_MODEL}/rollback", _rollback),
    Route("PUT", _LABEL, _label, ("version",)),
    Route("DELETE", _LABEL, _remove_label),
    Route("GET", "/log-level", _read_level),
    Route("PUT", "/log-level", _set_level, ("level",)),
    Route("PUT", f"{_MODEL}/rollout", _start, PARAMETERS),
    Route("DELETE", f"{_MODEL}/rollout", _finish),
    Route("POST", "/v2/repository/index", _index),
    Route("POST", f"/v2/repository{_MODEL}/load", _load),
    Route("POST", f"/v2/repository{_MODEL}/unload", _unload),
)


def _plain(pattern: str) -> str:
    return re.sub(r"\(\?P<(\w+)>[^)]*\)", lambda found: found[1].upper(), pattern)
