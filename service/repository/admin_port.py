"""Management port: HTTP on loopback, in the parent process, for `limelight models` and `log-level`.

It is no second way to the models: it answers no image. It also takes Triton's repository control,
so that `tritonclient`'s `load_model` and `unload_model` work. A web page cannot use it through the
browser of somebody on this machine: requests with an Origin, or for another host, are refused.
"""

import json
import logging
import re
import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qs, unquote, urlsplit

from service.repository.control import Control, RepositoryError
from service.repository.rollout import Rollout

logger = logging.getLogger("limelight.repository")

HOST = "127.0.0.1"
_MAX_BODY = 65_536
_TIMEOUT_S = 30.0
_METRICS_TYPE = "text/plain; version=1.0.0; charset=utf-8"
_HOSTS = ("127.0.0.1", "localhost", "[::1]")
Json = Any
Command = Callable[[Control, "re.Match[str]", dict[str, str]], Json]


class AdminPort:
    """Management port on `port` of loopback.

    Args:
        metrics: folder of the workers' metrics, which are shown at /metrics; None: they are not.

    Raises:
        OSError: the port cannot be opened.
    """

    def __init__(self, control: Control, port: int, *, metrics: Path | None = None) -> None:
        handler = type("Handler", (_Handler,), {"control": control, "metrics": metrics})
        self._server = ThreadingHTTPServer((HOST, port), handler)
        self._server.daemon_threads = True

    def start(self) -> None:
        """Answer requests in threads."""
        threading.Thread(
            target=self._server.serve_forever, name="limelight-admin", daemon=True
        ).start()

    def close(self) -> None:
        """Close the port."""
        self._server.shutdown()
        self._server.server_close()


def _activate(control: Control, path: "re.Match[str]", query: dict[str, str]) -> Json:
    control.activate(path["name"], query.get("version", "latest"))
    return control.describe()


def _rollback(control: Control, path: "re.Match[str]", query: dict[str, str]) -> Json:
    control.rollback(path["name"])
    return control.describe()


def _label(control: Control, path: "re.Match[str]", query: dict[str, str]) -> Json:
    if "version" in query:
        control.label(path["name"], path["label"], query["version"])
    else:
        control.remove_label(path["name"], path["label"])
    return control.describe()


def _start(control: Control, path: "re.Match[str]", query: dict[str, str]) -> Json:
    try:
        rollout = Rollout.parse(query)
    except ValueError as error:
        raise RepositoryError(str(error)) from error
    control.start(path["name"], rollout)
    return control.describe()


def _finish(control: Control, path: "re.Match[str]", query: dict[str, str]) -> Json:
    control.finish(path["name"])
    return control.describe()


def _load(control: Control, path: "re.Match[str]", query: dict[str, str]) -> Json:
    control.load(path["name"])
    return {}


def _unload(control: Control, path: "re.Match[str]", query: dict[str, str]) -> Json:
    control.unload(path["name"])
    return {}


def _index(control: Control, path: "re.Match[str]", query: dict[str, str]) -> Json:
    return control.index()


def _read_level(control: Control, path: "re.Match[str]", query: dict[str, str]) -> Json:
    return {"level": control.describe()["log_level"]}


def _set_level(control: Control, path: "re.Match[str]", query: dict[str, str]) -> Json:
    control.set_log_level(query.get("level", ""))
    return _read_level(control, path, query)


_MODEL = "/models/(?P<name>[a-z0-9_-]{1,63})"
_ROUTES: dict[tuple[str, str], Command] = {
    ("GET", "/models"): lambda control, path, query: control.describe(),
    ("POST", f"{_MODEL}/activate"): _activate,
    ("POST", f"{_MODEL}/rollback"): _rollback,
    ("PUT", f"{_MODEL}/labels/(?P<label>[^/]{{1,100}})"): _label,
    ("GET", "/log-level"): _read_level,
    ("PUT", "/log-level"): _set_level,
    ("PUT", f"{_MODEL}/rollout"): _start,
    ("DELETE", f"{_MODEL}/rollout"): _finish,
    ("POST", "/v2/repository/index"): _index,
    ("POST", f"/v2/repository{_MODEL}/load"): _load,
    ("POST", f"/v2/repository{_MODEL}/unload"): _unload,
}


class _Handler(BaseHTTPRequestHandler):
    """One connection of the management port."""

    control: ClassVar[Control]
    metrics: ClassVar[Path | None]
    protocol_version = "HTTP/1.1"
    timeout = _TIMEOUT_S

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        self._answer()

    def do_DELETE(self) -> None:
        self._answer()

    def log_message(self, format: str, *args: Any) -> None:  # its name there
        logger.info("management port: %s", format % args)

    def _answer(self) -> None:
        try:
            status, content = self._carry_out()
        except RepositoryError as error:
            status = HTTPStatus.CONFLICT if error.found else HTTPStatus.NOT_FOUND
            content = {"error": str(error)}
        except Exception:
            logger.exception("%s %s failed", self.command, self.path)
            status, content = HTTPStatus.INTERNAL_SERVER_ERROR, {"error": "see the service's log"}
        text = isinstance(content, bytes)  # the metrics
        body = content if text else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", _METRICS_TYPE if text else "application/json")
        self.send_header("Content-Length", str(len(body)))
        if self.close_connection:  # or a client sends its next request on it
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def _carry_out(self) -> tuple[HTTPStatus, Json]:
        host = self.headers.get("Host", "").rpartition(":")[0] or self.headers.get("Host", "")
        if host not in _HOSTS or "Origin" in self.headers:
            self.close_connection = True
            return HTTPStatus.FORBIDDEN, {"error": "the management port takes no web pages"}
        length = self.headers.get("Content-Length", "0")
        if not length.isdigit() or int(length) > _MAX_BODY or "Transfer-Encoding" in self.headers:
            self.close_connection = True
            return HTTPStatus.REQUEST_ENTITY_TOO_LARGE, {"error": "the body is too large"}
        self.rfile.read(int(length))  # Triton's clients send parameters, of which none is known
        parts = urlsplit(self.path)
        query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        if (self.command, parts.path) == ("GET", "/metrics") and self.metrics is not None:
            from service.telemetry.all_workers import render  # only if somebody asks

            return HTTPStatus.OK, render(self.metrics)
        for (method, pattern), command in _ROUTES.items():
            path = re.fullmatch(pattern, unquote(parts.path))
            if path is not None and method == self.command:
                return HTTPStatus.OK, command(self.control, path, query)
        routes = ", ".join(f"{method} {_plain(pattern)}" for method, pattern in _ROUTES)
        return HTTPStatus.NOT_FOUND, {"error": f"there is no such path; there are {routes}"}


def _plain(pattern: str) -> str:
    return re.sub(r"\(\?P<(\w+)>[^)]*\)", lambda found: found[1].upper(), pattern)
