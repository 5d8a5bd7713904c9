"""ASGI application of the service: routes, errors, early rejection and the life of a worker."""

import asyncio
import gc
import logging
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

from starlette.types import Receive, Scope, Send

from limelight.errors import (
    ClientGone,
    InternalError,
    InvalidParameter,
    LimelightError,
)
from service.access.access import Access
from service.access.criticality import read_criticality
from service.errors import MethodNotAllowed, NoSuchRoute
from service.headers import CLOSE, Header
from service.http.cors import allow_origins
from service.http.exchange import Endpoint, Exchange
from service.http.json_responses import problem_response
from service.http.messages import Request, Response
from service.http.prediction_endpoints import LOW_PRIORITY, PredictionEndpoints, masked_images
from service.http.request_body import is_form
from service.http.statuses import status_of
from service.inference.admission import UploadBudget
from service.inference.model_registry import ModelRegistry
from service.inference.version_follower import Follower
from service.information_endpoints import InformationEndpoints, route_of
from service.oip import errors as oip_errors
from service.oip.dataplane import Server
from service.oip.grpc_port import Port
from service.oip.rest import Rest
from service.process.connection_balancer import Acceptor
from service.process.shutdown import Drain
from service.process.worker_gauges import WorkerGauges
from service.process.worker_status import WorkerStatus
from service.readiness import Readiness, shutting_down
from service.settings import Settings
from service.system.malloc import Trimmer
from service.telemetry import logs, tracing
from service.telemetry.metrics import FLUSH_S, Metrics, RequestLabels
from service.telemetry.recorder import Recorder
from service.telemetry.tracing import Tracing

if TYPE_CHECKING:
    from opentelemetry.trace import Span

logger = logging.getLogger("limelight.app")

# Threshold of the garbage collector. A few concurrent requests reach the default of 700. With
# 50,000, the reference cycles that uvicorn leaves for closed connections took 10 MB.
_GC_THRESHOLD = 10_000
_THREADS = 2
# Interval at which a worker publishes its status.
_STATUS_INTERVAL_S = 0.25
# Key in the ASGI scope for the exchange that early admission has created.
_EXCHANGE = "limelight.exchange"


class Application:
    """ASGI application: loads the models at startup and answers every request."""

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        registry: ModelRegistry | None = None,
        *,
        trace: Tracing | None = None,
        worker_status: WorkerStatus | None = None,
        follower: Follower | None = None,
        workers: int = 1,
    ) -> None:
        self._settings = settings
        self._metrics = metrics
        self._registry = registry or ModelRegistry(settings, metrics)
        self._tracing = trace
        self._worker_status = worker_status
        self._follower = follower
        self._drain = Drain(settings.drain_s)
        self._readiness = Readiness(lambda: self._drain.begun)
        self._access = None
        if settings.keys_file is not None:
            self._access = Access(settings, metrics, workers=workers)
        self._upload_budget = UploadBudget(settings.max_queued_bytes)
        self._in_flight = 0
        self._status_task: asyncio.Task[None] | None = None
        self._recorder = Recorder(metrics, trace, access_log=settings.access_log)
        prediction = PredictionEndpoints(
            self._registry, self._upload_budget, max_bytes=settings.max_bytes
        )
        relay = None
        if follower is not None and self._access is not None:
            relay = follower.relay(lambda: self._drain.begun)
        oip = Server(
            settings,
            metrics,
            self._registry,
            workers=workers,
            unready_error=self._readiness.error,
            relay=relay,
        )
        self._oip = Rest(oip, self._upload_budget, metrics)
        self._port = Port(
            *(oip, self._upload_budget, metrics, self._recorder, trace, self._count_refusal),
            self._access,
        )
        # Of several reasons the first one counts: the keys, then the models, then the port.
        if self._access is not None:
            self._readiness.require(self._access)
        self._readiness.require(self._registry)
        self._readiness.require(self._port)
        self._gauges = WorkerGauges(
            metrics,
            self._registry,
            self._readiness,
            in_flight=lambda: self._in_flight + self._port.in_flight,
            worker_status=worker_status,
        )
        self._routes: dict[str, dict[str, Endpoint]] = {
            "/predict": {"POST": prediction.predict},
            "/explain": {"POST": prediction.explain},
            **InformationEndpoints(
                settings, metrics, self._registry, self._readiness, self._gauges
            ).routes,
            **self._oip.routes,
        }
        self._cross_origin = None
        if settings.cors_origins:
            self._cross_origin = allow_origins(self._http, settings.cors_origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await (self._cross_origin or self._http)(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        else:  # a WebSocket: closed before the handshake, so the server answers 403
            await send({"type": "websocket.close", "code": 1000})

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Removed from the scope: the exchange refers to the scope, which would make a cycle.
        exchange: Exchange | None = scope.pop(_EXCHANGE, None)
        speaks_oip = exchange is None and self._oip.speaks(scope["path"])
        if exchange is None:
            route = self._oip.route if speaks_oip else route_of
            exchange = Exchange(Request(scope, receive), route(scope["path"]))
        request = exchange.request
        error_response = oip_errors.error_response if speaks_oip else problem_response
        span = None
        if self._tracing is not None:
            name = f"{request.method} {self._known(exchange.route)}"
            span = self._tracing.begin(name, request.headers)
        self._in_flight += 1
        error_code: str | None = None
        try:
            if not exchange.checked:
                if self._access is not None:
                    await self._access.admit(exchange.route, request.headers, request.context)
                request.set_deadline(self._settings.timeout_s)
                read_criticality(request.headers, request.context)
            response = await self._endpoint(request.method, exchange.route)(exchange)
        except LimelightError as error:
            response, error_code = error_response(error), error.code
        except asyncio.CancelledError:
            # asyncio cancels the requests that are left after a second Ctrl+C, and uvicorn those
            # that exceed its timeout. uvicorn would log a traceback of each.
            if not self._drain.begun:
                raise
            ended = shutting_down()
            response, error_code = error_response(ended), ended.code
        except Exception:
            logger.exception(
                "%s %s failed",
                request.method,
                exchange.route,
                extra={"request_id": request.context.id},
            )
            failure = InternalError("the request failed in the service: see its log")
            response, error_code = error_response(failure), failure.code
        finally:
            self._in_flight -= 1
            exchange.release()
        if error_code != ClientGone.code:
            await self._send(exchange, response, send, span)
        seconds = time.perf_counter() - request.context.started
        self._recorder.record(
            exchange, self._known(exchange.route), response.status, error_code, seconds, span
        )

    def _reject_early(
        self, scope: Scope, receive: Receive, body_arrived: bool
    ) -> tuple[Response, Iterable[Header]] | None:
        """Reject a request when its head arrives, before a task is created for it.

        With `body_arrived`, a request that is not rejected is admitted: else all requests that
        arrive together would be checked before the first one counts.
        Return the response and additional headers. Return None if the request must take the normal
        path: it is admitted, it is invalid, the fields of its form may name another model, or its
        answer needs the headers of a trace, of the shutdown or of CORS.
        """
        path = scope["path"]
        if path not in LOW_PRIORITY or self._tracing is not None or self._drain.begun:
            return None
        if self._settings.cors_origins:
            return None
        request = Request(scope, receive)
        query = request.query
        served = self._registry.served(query.get("model"), query.get("version"))
        if served is None or request.method != "POST" or is_form(request):
            return None
        exchange = Exchange(request, path)
        try:
            request.set_deadline(self._settings.timeout_s)
            read_criticality(request.headers, request.context)
        except InvalidParameter:
            return None
        # After everything that may return None: the normal path would admit the key again.
        if self._access is not None:
            try:
                if not self._access.admit_now(path, request.headers, request.context):
                    return None
            except LimelightError as error:
                return self._rejected(exchange, error)
            read_criticality(request.headers, request.context)  # now that the caller is known
        classifier = self._registry.choose(
            served, query.get("version"), request.headers, request.context
        )
        exchange.classifier, exchange.checked = classifier, True
        rejection = classifier.rejection(
            request.context,
            low_priority=LOW_PRIORITY[path],
            masked_images=masked_images(path, request.query, classifier),
        )
        if rejection is None:
            if body_arrived:
                exchange.admit(classifier.batcher.admission.admitted_now(request.context))
            scope[_EXCHANGE] = exchange
            return None
        return self._rejected(exchange, rejection)

    def _rejected(
        self, exchange: Exchange, error: LimelightError
    ) -> tuple[Response, Iterable[Header]]:
        request, response = exchange.request, problem_response(error)
        seconds = time.perf_counter() - request.context.started
        route, status = exchange.route, response.status
        self._recorder.record(exchange, route, status, error.code, seconds, None)
        return response, _headers_of(exchange)

    def _count_refusal(self, error: LimelightError) -> None:
        labels = RequestLabels("other", code=status_of(type(error)), error_code=error.code)
        self._metrics.observe_request(labels, seconds=0.0, stages=())

    async def _send(
        self, exchange: Exchange, response: Response, send: Send, span: "Span | None"
    ) -> None:
        request, extra = exchange.request, _headers_of(exchange)
        if request.context.stages:
            extra.append((b"server-timing", request.context.server_timing()))
        if span is not None:
            extra.append((b"traceresponse", tracing.trace_response(span)))
        if self._drain.begun:
            extra.append(CLOSE)
        await response.send(send, extra=extra, head_only=request.method == "HEAD")

    def _known(self, route: str) -> str:
        return route if route in self._routes else "other"

    def _endpoint(self, method: str, route: str) -> Endpoint:
        methods = self._routes.get(route)
        if methods is None:
            raise NoSuchRoute("there is no such path: /openapi.json lists the paths")
        endpoint = methods.get("GET" if method == "HEAD" else method)
        if endpoint is None:
            allowed = ", ".join([*methods, "HEAD"] if "GET" in methods else methods)
            raise MethodNotAllowed(f"{route} accepts {allowed}, not {method[:20]}", allowed=allowed)
        return endpoint

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        """Load the models before the first request. After a failure, the service stays unready."""
        acceptor = Acceptor.of_this_process(
            self._settings,
            self._worker_status,
            reject_early=self._reject_early,
            on_refusal=self._count_refusal,
        )
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await self._start(acceptor)
                await send({"type": "lifespan.startup.complete"})
                await acceptor.take_over()
                await self._port.open(acceptor.host, max_connections=acceptor.max_grpc_connections)
            else:
                await self._end(acceptor)
                await send({"type": "lifespan.shutdown.complete"})
                return

    async def _start(self, acceptor: Acceptor) -> None:
        # For metrics and compression; images have threads of their own. Python's default is one
        # thread per core plus four in each worker, and each keeps its own memory.
        loop = asyncio.get_running_loop()
        loop.set_default_executor(
            ThreadPoolExecutor(_THREADS, thread_name_prefix="limelight-other")
        )
        self._drain.install(loop, on_end=partial(self._stop_accepting, acceptor))
        await asyncio.to_thread((self._follower or self._registry).load)
        # Loaded objects live until the end: freeze excludes them from later collections.
        gc.collect()
        gc.freeze()
        gc.set_threshold(_GC_THRESHOLD)
        self._status_task = asyncio.create_task(self._publish_status(acceptor))
        if self._access is not None:
            self._access.start()

    async def _end(self, acceptor: Acceptor) -> None:
        self._stop_accepting(acceptor)
        await self._port.close()
        self._drain.uninstall()
        if self._status_task is not None:
            self._status_task.cancel()
        if self._follower is not None:
            self._follower.close()
        if self._access is not None:
            self._access.stop()
        await self._registry.close()
        self._metrics.flush()
        if self._tracing is not None:
            await asyncio.to_thread(self._tracing.close)

    def _stop_accepting(self, acceptor: Acceptor) -> None:
        acceptor.stop()
        self._port.stop()

    async def _publish_status(self, acceptor: Acceptor) -> None:
        """Keep the metrics and the connections of this worker current."""
        flushed, trimmer = 0.0, Trimmer()
        while True:
            acceptor.check()
            if self._follower is not None:
                self._follower.check()
            self._gauges.update()
            trimmer.trim()
            if time.perf_counter() > flushed + FLUSH_S:
                self._metrics.flush()
                logs.report_suppressed()
                flushed = time.perf_counter()
            await asyncio.sleep(_STATUS_INTERVAL_S)


def _headers_of(exchange: Exchange) -> list[Header]:
    """Return the headers that name the request, and the model that answered it."""
    own = (b"x-request-id", exchange.request.context.id.encode())
    return [own] if exchange.classifier is None else [own, *exchange.classifier.headers]
