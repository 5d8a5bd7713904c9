"""REST interface of the protocol: routes, headers and bodies."""

import asyncio
import time
from collections.abc import Mapping
from typing import Any

from service.http.compression import compress
from service.http.exchange import Endpoint, Exchange
from service.http.json_responses import json_response
from service.http.messages import Response
from service.http.request_body import read_body
from service.inference.admission import UploadBudget
from service.oip.binary_codec import decode_request, encode_response
from service.oip.dataplane import NAME, Server, server_version
from service.oip.errors import InvalidInference
from service.oip.json_codec import parse_json
from service.repository.relay import ACTIONS
from service.telemetry.metrics import Metrics

ROOT = "/v2"
_MODEL = f"{ROOT}/models/{{name}}"
_CONTROLLED = f"{ROOT}/repository/models/{{name}}"
_VERSION = f"{_MODEL}/versions/{{version}}"
_HEADER_LENGTH = b"inference-header-content-length"
# Limit for the body of a request about the repository, which has a few fields.
_MAX_REPOSITORY_BYTES = 4096
_OCTETS = b"application/octet-stream"
_VARY = (b"vary", b"Accept-Encoding")


class Rest:
    """Routes of the protocol for the application; `route` maps a path to its route."""

    def __init__(self, server: Server, upload_budget: UploadBudget, metrics: Metrics) -> None:
        self._server = server
        self._upload_budget = upload_budget
        self._metrics = metrics
        self.routes: dict[str, dict[str, Endpoint]] = {
            ROOT: {"GET": self._metadata},
            f"{ROOT}/health/live": {"GET": self._live},
            f"{ROOT}/health/ready": {"GET": self._ready},
            f"{ROOT}/models/stats": {"GET": self._statistics},
            f"{ROOT}/repository/index": {"POST": self._index},
            **{f"{_CONTROLLED}/{action}": {"POST": self._control} for action in ACTIONS},
        }
        for model in (_MODEL, _VERSION):
            self.routes |= {
                model: {"GET": self._model},
                f"{model}/ready": {"GET": self._model_ready},
                f"{model}/config": {"GET": self._configuration},
                f"{model}/stats": {"GET": self._statistics},
                f"{model}/infer": {"POST": self._infer},
            }

    def speaks(self, path: str) -> bool:
        """Return True if errors under this path have the protocol's form."""
        return path == ROOT or path.startswith(f"{ROOT}/")

    def route(self, path: str) -> str:
        """Return the route of a path; the path itself if there is no such route."""
        if path in self.routes:
            return path
        parts = path.split("/")
        if path.startswith(f"{ROOT}/repository/models/") and len(parts) == 6 and parts[4]:
            route = f"{_CONTROLLED}/{parts[5]}"
            return route if route in self.routes else path
        if len(parts) > 3 and parts[3]:
            parts[3] = "{name}"
        if len(parts) > 5 and parts[4] == "versions" and parts[5]:
            parts[5] = "{version}"
        route = "/".join(parts)
        return route if path.startswith(f"{ROOT}/models/") and route in self.routes else path

    async def _metadata(self, exchange: Exchange) -> Response:
        return json_response(
            {"name": NAME, "version": server_version(), "extensions": self._server.extensions}
        )

    async def _live(self, exchange: Exchange) -> Response:
        return json_response({"live": True})

    async def _ready(self, exchange: Exchange) -> Response:
        error = self._server.unready_error()
        if error is not None:
            raise error
        return json_response({"ready": True})

    async def _model(self, exchange: Exchange) -> Response:
        return json_response(self._server.metadata(*_model_and_version(exchange)))

    async def _model_ready(self, exchange: Exchange) -> Response:
        name, version = _model_and_version(exchange)
        self._server.check_ready(name, version)
        return json_response({"name": name, "ready": True})

    async def _configuration(self, exchange: Exchange) -> Response:
        return json_response(self._server.configuration(*_model_and_version(exchange)))

    async def _statistics(self, exchange: Exchange) -> Response:
        all_models = exchange.route == f"{ROOT}/models/stats"
        selection = () if all_models else _model_and_version(exchange)
        self._metrics.flush()
        found = await asyncio.to_thread(self._server.statistics, *selection)
        return json_response({"model_stats": found})

    async def _index(self, exchange: Exchange) -> Response:
        """List the models; with `ready` in the body, list only those that are ready."""
        ready = (await self._repository_request(exchange)).get("ready", False)
        if not isinstance(ready, bool):
            raise InvalidInference(
                "send an empty body, or an object whose 'ready' is true or false"
            )
        models = self._server.index()
        return json_response([model for model in models if not ready or model["state"] == "READY"])

    async def _control(self, exchange: Exchange) -> Response:
        """Load or unload a model; the answer comes when all workers have followed."""
        parts = exchange.request.path.split("/")
        parameters = (await self._repository_request(exchange)).get("parameters", {})
        if not isinstance(parameters, Mapping):
            raise InvalidInference("send an empty body, or an object whose 'parameters' is one")
        await self._server.control(parts[5], parts[4], parameters, exchange.request.context)
        return json_response({})

    async def _repository_request(self, exchange: Exchange) -> Mapping[str, Any]:
        request = exchange.request
        with self._upload_budget.reserve(
            max_bytes=_MAX_REPOSITORY_BYTES, declared=request.declared_length
        ) as reservation:
            body = await read_body(request, reservation)
        content = parse_json(body) if body.strip() else {}
        if not isinstance(content, Mapping):
            raise InvalidInference("send an empty body, or an object")
        return content

    async def _infer(self, exchange: Exchange) -> Response:
        request, context, server = exchange.request, exchange.request.context, self._server
        with self._upload_budget.reserve(
            max_bytes=server.settings.max_bytes, declared=request.declared_length
        ) as reservation:
            started = time.perf_counter()
            classifier = server.route(*_model_and_version(exchange), request.headers, context)
            exchange.classifier = classifier
            if not request.arrived():
                # A slow body must not occupy the queue, and a client that is rejected need not send
                # its body. So the request is only checked here, and admitted by `infer`.
                with classifier.admit(context, low_priority=False):
                    pass
            body = await read_body(request, reservation)
            length = request.headers.get(_HEADER_LENGTH)
            wanted = decode_request(
                body,
                None if length is None else length.decode("latin-1"),
                classifier.manifest,
                max_batch=server.inference.max_batch,
            )
            context.end_stage("read", started)
            response = await server.inference.infer(classifier, wanted, context)
            exchange.winners, exchange.method = response.winners, response.method
        started = time.perf_counter()
        content, header_length = encode_response(response, wanted)
        headers, media_type = [_VARY], b"application/json"
        if header_length is not None:
            headers.append((_HEADER_LENGTH, str(header_length).encode()))
            media_type = _OCTETS
        content, encoding = await compress(content, request.header(b"accept-encoding"))
        if encoding is not None:
            headers.append((b"content-encoding", encoding.encode()))
        context.end_stage("render", started)
        return Response(content, 200, media_type, headers)


def _model_and_version(exchange: Exchange) -> tuple[str, str]:
    """Return the name and the version in the path; the version is empty if absent."""
    parts = exchange.request.path.split("/")
    return parts[3], parts[5] if "{version}" in exchange.route else ""
