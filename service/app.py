"""The HTTP interface: one small ASGI application. Endpoints only translate to the use case."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from service import metrics as prometheus
from service.catalogue import Catalogue
from service.classifier import Classifier
from service.errors import (
    InternalError,
    MethodNotAllowed,
    NoSuchRoute,
    NotReady,
    ServiceError,
)
from service.metrics import Metrics
from service.openapi import document
from service.parameters import DEFAULT_TOP_K, ExplainParameters, PredictParameters
from service.rendering import (
    cam_content,
    json_response,
    model_content,
    prediction_content,
    problem_response,
)
from service.settings import Settings
from service.uploads import read_image

Endpoint = Callable[[Request], Awaitable[Response]]

logger = logging.getLogger("limelight.app")

_MODEL_PREFIX = "/models/"


class Application:
    """Answers every request itself; loads the models when the server starts it."""

    def __init__(
        self, settings: Settings, metrics: Metrics, catalogue: Catalogue | None = None
    ) -> None:
        self._settings = settings
        self._metrics = metrics
        self._catalogue = catalogue or Catalogue(settings, metrics)
        self._openapi = json_response(document(settings))
        self._routes: dict[str, dict[str, Endpoint]] = {
            "/": {"GET": self._index},
            "/predict": {"POST": self._predict},
            "/explain": {"POST": self._explain},
            "/models": {"GET": self._models},
            "/models/{name}": {"GET": self._model},
            "/livez": {"GET": self._livez},
            "/readyz": {"GET": self._readyz},
            "/healthz": {"GET": self._healthz},
            "/metrics": {"GET": self._render_metrics},
            "/openapi.json": {"GET": self._openapi_document},
            "/docs.json": {"GET": self._openapi_document},
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, send)
        else:  # a WebSocket: refused before the handshake, which the server answers with 403
            await send({"type": "websocket.close", "code": 1000})

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        started, request = time.perf_counter(), Request(scope, receive)
        route, status = _route(request.url.path), 500

        async def counted_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            response = await self._answer(request, route)
            await response(scope, receive, counted_send)
        except ClientDisconnect:
            status = 499  # nobody is left to be answered; nginx's number for it
        self._metrics.observe_request(
            route=route if route in self._routes else "other",
            model=scope.get("limelight.model", "none"),
            code=status,
            seconds=time.perf_counter() - started,
        )

    async def _answer(self, request: Request, route: str) -> Response:
        try:
            response = await self._endpoint(request.method, route)(request)
        except ServiceError as error:
            response = problem_response(error)
        except ClientDisconnect:
            raise
        except Exception:
            logger.exception("%s %s failed", request.method, route)
            response = problem_response(
                InternalError("the service failed at this request, and its log says why")
            )
        if request.method == "HEAD":
            # The headers stay those of the GET, its Content-Length included.
            response.body = b""
        return response

    def _endpoint(self, method: str, route: str) -> Endpoint:
        methods = self._routes.get(route)
        if methods is None:
            raise NoSuchRoute("there is nothing under this path: /openapi.json lists what there is")
        endpoint = methods.get("GET" if method == "HEAD" else method)
        if endpoint is None:
            allowed = ", ".join([*methods, "HEAD"] if "GET" in methods else methods)
            raise MethodNotAllowed(f"{route} takes {allowed}, not {method[:20]}", Allow=allowed)
        return endpoint

    async def _predict(self, request: Request) -> Response:
        classifier = self._classifier(request)
        parameters = PredictParameters.parse(request.query_params)
        body = await read_image(request, max_bytes=self._settings.max_bytes)
        prediction = await classifier.predict(body, top_k=_top_k(parameters.top_k, classifier))
        return json_response(prediction_content(prediction))

    async def _explain(self, request: Request) -> Response:
        classifier = self._classifier(request)
        parameters = ExplainParameters.parse(request.query_params, request.headers)
        body = await read_image(request, max_bytes=self._settings.max_bytes)
        explanation = await classifier.explain(
            body,
            top_k=_top_k(parameters.top_k, classifier),
            target=parameters.target,
            style=parameters.style,
        )
        # Accept decides between picture and JSON, which caches have to know.
        headers = {"Vary": "Accept"}
        if explanation.overlay_png is not None:
            return Response(explanation.overlay_png, 200, headers, "image/png")
        content = prediction_content(explanation.prediction)
        content["cam"] = cam_content(explanation.cam)
        return json_response(content, headers=headers)

    async def _models(self, request: Request) -> Response:
        default = self._catalogue.default
        served = self._catalogue.classifiers.values()
        return json_response(
            {"models": [model_content(classifier, default=default) for classifier in served]}
        )

    async def _model(self, request: Request) -> Response:
        name = request.url.path.removeprefix(_MODEL_PREFIX)
        classifier = self._catalogue.get(name)
        return json_response(model_content(classifier, default=self._catalogue.default))

    async def _livez(self, request: Request) -> Response:
        return json_response({"status": "alive"})

    async def _readyz(self, request: Request) -> Response:
        if self._catalogue.problem is not None:
            raise NotReady(self._catalogue.problem, Retry_After="10")
        return json_response({"status": "ready"})

    async def _healthz(self, request: Request) -> Response:
        ready = self._catalogue.problem is None
        return json_response({"status": "alive", "ready": ready})

    async def _render_metrics(self, request: Request) -> Response:
        return Response(self._metrics.render(), headers={"Content-Type": prometheus.CONTENT_TYPE})

    async def _openapi_document(self, request: Request) -> Response:
        return Response(self._openapi.body, media_type="application/json")

    async def _index(self, request: Request) -> Response:
        return json_response({"service": "limelight", "openapi": "/openapi.json"})

    def _classifier(self, request: Request) -> Classifier:
        classifier = self._catalogue.get(request.query_params.get("model"))
        request.scope["limelight.model"] = classifier.manifest.name
        return classifier

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        """Load before the first request is taken; a failure leaves the service up and unready."""
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await asyncio.to_thread(self._catalogue.load)
                await send({"type": "lifespan.startup.complete"})
            else:
                await self._catalogue.close()
                await send({"type": "lifespan.shutdown.complete"})
                return


def _top_k(asked: int | None, classifier: Classifier) -> int:
    return min(DEFAULT_TOP_K, len(classifier.manifest.classes)) if asked is None else asked


def _route(path: str) -> str:
    """The route a path belongs to: itself, but for the one that has a parameter."""
    name = path.removeprefix(_MODEL_PREFIX)
    return "/models/{name}" if name != path and name and "/" not in name else path
