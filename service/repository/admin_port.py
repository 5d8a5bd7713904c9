"""Management port: HTTP on loopback, in the parent process, for `limelight models` and `log-level`.

It is no second way to the models: it answers no image. It also takes Triton's repository control,
so that `tritonclient`'s `load_model` and `unload_model` work. A web page cannot use it through the
browser of somebody on this machine: requests with an Origin, or for another host, are refused.
"""

import json
import logging
import re
import sys
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

from service.repository.admin_routes import InvalidRequestError, Json, carry_out
from service.repository.control import Control, RepositoryError

logger = logging.getLogger("limelight.repository")

HOST = "127.0.0.1"
_MAX_BODY = 65_536
_TIMEOUT_S = 30.0
_METRICS_TYPE = "text/plain; version=1.0.0; charset=utf-8"
_HOSTS = ("127.0.0.1", "localhost", "[::1]")
# A number of as many digits is too large anyway, and a longer one takes long to read.
_LENGTH, _MAX_DIGITS = re.compile("[0-9]+"), 9


class AdminPort:
    """Management port on `port` of loopback.

    Args:
        metrics: folder of the workers' metrics, which are shown at /metrics; None: they are not.

    Raises:
        OSError: the port cannot be opened.
    """

    def __init__(self, control: Control, port: int, *, metrics: Path | None = None) -> None:
        handler = type("Handler", (_Handler,), {"control": control, "metrics": metrics})
        self._server = _Server((HOST, port), handler)

    def start(self) -> None:
        """Answer requests in threads."""
        threading.Thread(
            target=self._server.serve_forever, name="limelight-admin", daemon=True
        ).start()

    def close(self) -> None:
        """Close the port."""
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    """Server with a thread for each connection, which ends with the process."""

    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log what a connection ended with, unless its client has left."""
        if not isinstance(sys.exception(), ConnectionError):
            logger.exception("a connection to the management port failed")


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
        status, content = self._problem() or self._carry_out()
        text = isinstance(content, bytes)  # the metrics
        body = content if text else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", _METRICS_TYPE if text else "application/json")
        self.send_header("Content-Length", str(len(body)))
        if self.close_connection:  # or a client sends its next request on it
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def _problem(self) -> tuple[HTTPStatus, Json] | None:
        """Return the answer to a request that is not even looked at; None if its body was read."""
        host = self.headers.get("Host", "").rpartition(":")[0] or self.headers.get("Host", "")
        length = self.headers.get("Content-Length", "0")
        if host not in _HOSTS or "Origin" in self.headers:
            found = HTTPStatus.FORBIDDEN, {"error": "the management port takes no web pages"}
        elif "Transfer-Encoding" in self.headers or not _LENGTH.fullmatch(length):
            found = HTTPStatus.BAD_REQUEST, {"error": "send the size of the body: Content-Length"}
        elif len(length) > _MAX_DIGITS or int(length) > _MAX_BODY:
            found = HTTPStatus.REQUEST_ENTITY_TOO_LARGE, {"error": "the body is too large"}
        # Triton's clients send parameters, of which none is known.
        elif len(self.rfile.read(int(length))) < int(length):
            found = HTTPStatus.BAD_REQUEST, {"error": "the body ended early"}
        else:
            return None
        self.close_connection = True
        return found

    def _carry_out(self) -> tuple[HTTPStatus, Json]:
        try:
            if self.command == "GET" and self.path == "/metrics" and self.metrics is not None:
                from service.telemetry.all_workers import render  # only if somebody asks

                return HTTPStatus.OK, render(self.metrics)
            return HTTPStatus.OK, carry_out(self.control, self.command, self.path)
        except InvalidRequestError as error:
            return HTTPStatus.BAD_REQUEST, {"error": str(error)}
        except RepositoryError as error:
            status = HTTPStatus.CONFLICT if error.found else HTTPStatus.NOT_FOUND
            return status, {"error": str(error)}
        except Exception:
            logger.exception("%s %s failed", self.command, self.path)
            return HTTPStatus.INTERNAL_SERVER_ERROR, {"error": "see the service's log"}
