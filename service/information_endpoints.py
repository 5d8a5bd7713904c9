"""Endpoints other than predictions: models, health, metrics, OpenAPI documents and web pages."""

import asyncio

from service.errors import NoSuchRoute
from service.http.exchange import Endpoint, Exchange
from service.http.json_responses import json_response, model_content, models_content
from service.http.messages import Response
from service.http.static_files import DOCS, INDEX, Files
from service.inference.model_registry import ModelRegistry
from service.openapi.bentoml import bentoml_schema
from service.openapi.document import document
from service.process.worker_gauges import WorkerGauges
from service.readiness import Readiness
from service.settings import Settings
from service.telemetry.metrics import CONTENT_TYPE, Metrics

_MODELS = "/models/"
_WITH_PARAMETER = {
    _MODELS: "/models/{name}",
    "/page/": "/page/{file}",
    "/examples/": "/examples/{file}",
}


def route_of(path: str) -> str:
    """Return the route of a path: its template if it has a parameter, else the path itself."""
    for prefix, route in _WITH_PARAMETER.items():
        name = path.removeprefix(prefix)
        if name != path and name and "/" not in name:
            return route
    return path


class InformationEndpoints:
    """Endpoints other than predictions.

    Attributes:
        routes: endpoint of each route and method.
    """

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        registry: ModelRegistry,
        readiness: Readiness,
        gauges: WorkerGauges,
    ) -> None:
        self._metrics, self._registry = metrics, registry
        self._readiness, self._gauges = readiness, gauges
        self._files = Files()
        self._openapi = json_response(document(settings))
        self._schema = json_response(bentoml_schema())
        self.routes: dict[str, dict[str, Endpoint]] = {
            "/": {"GET": self._page},
            "/docs": {"GET": self._docs},
            "/page/{file}": {"GET": self._file},
            "/examples/{file}": {"GET": self._file},
            "/models": {"GET": self._models},
            "/models/{name}": {"GET": self._model},
            "/livez": {"GET": self._livez},
            "/readyz": {"GET": self._readyz},
            "/healthz": {"GET": self._healthz},
            "/metrics": {"GET": self._render_metrics},
            "/openapi.json": {"GET": self._openapi_document},
            "/docs.json": {"GET": self._openapi_document},
            "/schema.json": {"GET": self._bentoml_schema},
        }

    async def _page(self, exchange: Exchange) -> Response:
        return self._files.answer(INDEX, exchange.request)

    async def _docs(self, exchange: Exchange) -> Response:
        return self._files.answer(DOCS, exchange.request)

    async def _file(self, exchange: Exchange) -> Response:
        path = exchange.request.path
        if path not in self._files:
            raise NoSuchRoute(f"there is no file {path[:100]!r}: the page is at /")
        return self._files.answer(path, exchange.request)

    async def _models(self, exchange: Exchange) -> Response:
        return json_response(models_content(self._registry))

    async def _model(self, exchange: Exchange) -> Response:
        name = exchange.request.path.removeprefix(_MODELS)
        version = exchange.request.query.get("version")
        return json_response(model_content(self._registry.get(name, version), self._registry))

    async def _livez(self, exchange: Exchange) -> Response:
        return json_response({"status": "alive"})

    async def _readyz(self, exchange: Exchange) -> Response:
        error = self._readiness.error()
        if error is not None:
            raise error
        return json_response({"status": "ready"})

    async def _healthz(self, exchange: Exchange) -> Response:
        return json_response({"status": "alive", "ready": self._readiness.is_ready})

    async def _render_metrics(self, exchange: Exchange) -> Response:
        self._gauges.update()
        self._metrics.flush()
        text = await asyncio.to_thread(self._metrics.render)
        return Response(text, 200, CONTENT_TYPE.encode())

    async def _openapi_document(self, exchange: Exchange) -> Response:
        return self._openapi

    async def _bentoml_schema(self, exchange: Exchange) -> Response:
        return self._schema
