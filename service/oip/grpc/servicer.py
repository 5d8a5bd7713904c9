"""Methods of `GRPCInferenceService`. They only translate between gRPC and the data plane."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import asdict
from typing import Any

import grpc
from google.protobuf.json_format import ParseDict

from limelight.errors import ClientGone, InternalError, LimelightError
from service.access.access import Access
from service.access.criticality import read_criticality
from service.errors import Unauthenticated
from service.headers import DIGEST_HEADER
from service.inference.admission import UploadBudget
from service.oip.dataplane import NAME, Server, server_version
from service.oip.errors import InvalidInference
from service.oip.grpc.codec import read_request, write_response
from service.oip.grpc.exchange import RpcExchange, status_code, trailers
from service.oip.grpc.messages import SERVICE, input_class, message_class
from service.oip.grpc.read_interceptor import Guard
from service.oip.grpc.wire import reader
from service.telemetry.metrics import Metrics
from service.telemetry.recorder import Recorder
from service.telemetry.tracing import Tracing

logger = logging.getLogger("limelight.app")

Answer = Callable[[Any, RpcExchange], Awaitable[Any]]

# Maximum number of requests of one stream in progress: enough to fill a batch.
_MAX_STREAMED = 64
_STREAM = "ModelStreamInfer"
_END = object()


class Servicer:
    """Implementation of the methods; `handler` returns the handler for a gRPC server."""

    def __init__(
        self,
        server: Server,
        upload_budget: UploadBudget,
        metrics: Metrics,
        recorder: Recorder,
        trace: Tracing | None,
        access: Access | None = None,
    ) -> None:
        self._server = server
        self._access = access
        self._upload_budget = upload_budget
        self._metrics = metrics
        self._recorder = recorder
        self._tracing = trace
        self.in_flight = 0
        self._answers: dict[str, Answer] = {
            "ServerLive": self._live,
            "ServerReady": self._ready,
            "ServerMetadata": self._metadata,
            "ModelReady": self._model_ready,
            "ModelMetadata": self._model_metadata,
            "ModelConfig": self._configuration,
            "ModelStatistics": self._statistics,
            "ModelInfer": self._infer,
            "RepositoryIndex": self._index,
            "RepositoryModelLoad": self._load,
            "RepositoryModelUnload": self._unload,
        }

    def handler(self) -> Any:
        """Return the handler of all methods, under the service's published name."""
        handlers = {
            name: grpc.unary_unary_rpc_method_handler(
                self._unary(name, answer), reader(input_class(name)), _serialize
            )
            for name, answer in self._answers.items()
        }
        handlers[_STREAM] = grpc.stream_stream_rpc_method_handler(
            self._stream, reader(input_class(_STREAM)), _serialize
        )
        return grpc.method_handlers_generic_handler(SERVICE, handlers)

    @property
    def guard(self) -> Guard | None:
        """Function that ends a call without a valid key before its message; None: all are valid."""
        return None if self._access is None else self._check_key

    async def _check_key(self, route: str, context: Any) -> None:
        """Check the key of a call of any service of the port, and record a refusal.

        Raises:
            AbortError: the call is refused; gRPC expects it from the call.
        """
        if self._access is None:
            return
        exchange = RpcExchange.begin(context, timeout_s=self._server.settings.timeout_s)
        request = exchange.request
        try:
            # Each message of a stream counts as a request, and not its beginning.
            counts = not route.endswith(_STREAM)
            await self._access.admit(route, request.headers, request.context, counts=counts)
            return
        except LimelightError as error:
            exchange.set_error(error)
            status = status_code(error), error.detail, trailers(error)
        seconds = time.perf_counter() - request.context.started
        self._recorder.record(
            exchange, route, exchange.status, exchange.error_code, seconds, span=None
        )
        await context.abort(*status)

    def _unary(self, name: str, answer: Answer) -> Callable[[Any, Any], Awaitable[Any]]:
        async def call(message: Any, context: Any) -> Any:
            exchange = RpcExchange.begin(context, timeout_s=self._server.settings.timeout_s)
            try:
                answered = await self._answered(name, answer, message, exchange)
            except LimelightError as error:
                status = status_code(error), error.detail, exchange.metadata(error)
            else:
                if metadata := exchange.metadata():
                    context.set_trailing_metadata(metadata)
                return answered
            # gRPC keeps the exception of `abort` in a reference cycle, with the frames that it
            # passed and those of an exception that was handled then. They would keep the message.
            del message
            return await context.abort(*status)

        return call

    async def _stream(self, messages: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        """Answer a stream. Several requests run at once; responses keep the requests' order.

        Raises:
            AbortError: the key of the stream was taken back; gRPC expects it from the call.
        """
        response_class = message_class("ModelStreamInferResponse")

        async def call(message: Any) -> Any:
            exchange = RpcExchange.begin(context, timeout_s=self._server.settings.timeout_s)
            try:
                answer = await self._answered(_STREAM, self._infer, message, exchange)
            except Unauthenticated as error:
                return status_code(error), error.detail, exchange.metadata(error)
            except LimelightError as error:
                failed = response_class(error_message=error.detail)
                failed.infer_response.id = "" if message is None else message.id
                return failed
            # Each request has exactly one response, so every response is final.
            answer.parameters["triton_final_response"].bool_param = True
            # The metadata is that of the stream, whose requests may have several models.
            answer.parameters[DIGEST_HEADER].string_param = exchange.digest or ""
            return response_class(infer_response=answer)

        tasks: deque[asyncio.Task[Any]] = deque()
        arriving: asyncio.Task[Any] | None = None
        try:
            ended = False
            while tasks or not ended:
                if arriving is None and not ended and len(tasks) < _MAX_STREAMED:
                    arriving = asyncio.ensure_future(anext(messages, _END))
                waiting = {task for task in (arriving, tasks[0] if tasks else None) if task}
                await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                if arriving is not None and arriving.done():
                    message, arriving = arriving.result(), None
                    if message is _END:
                        ended = True
                    else:
                        tasks.append(asyncio.ensure_future(call(message)))
                while tasks and tasks[0].done():
                    result = tasks.popleft().result()
                    if isinstance(result, tuple):
                        await context.abort(*result)
                    yield result
        finally:
            for task in (*tasks, *((arriving,) if arriving is not None else ())):
                task.cancel()

    async def _answered(
        self, name: str, answer: Answer, message: Any, exchange: RpcExchange
    ) -> Any:
        """Answer a message, and record the call.

        Raises:
            LimelightError: the call fails; the error has been recorded.
        """
        route, request, span = f"/{SERVICE}/{name}", exchange.request, None
        if self._tracing is not None:
            span = self._tracing.begin(route, request.headers)
        self.in_flight += 1
        try:
            if self._access is not None:
                await self._admit_again(self._access, route, exchange)
            if message is None:
                raise InvalidInference("the message is malformed, or has too many fields")
            read_criticality(request.headers, request.context)
            return await answer(message, exchange)
        except LimelightError as error:
            exchange.set_error(error)
            raise
        except asyncio.CancelledError:
            exchange.set_error(ClientGone("the client has disconnected"))
            raise
        except Exception as error:
            logger.exception("%s failed", route, extra={"request_id": request.context.id})
            failure = InternalError("the request failed in the service: see its log")
            exchange.set_error(failure)
            raise failure from error
        finally:
            self.in_flight -= 1
            seconds = time.perf_counter() - exchange.request.context.started
            self._recorder.record(
                exchange, route, exchange.status, exchange.error_code, seconds, span
            )

    async def _admit_again(self, access: Access, route: str, exchange: RpcExchange) -> None:
        """Find the caller of a message whose call the guard has admitted.

        Raises:
            LimelightError: the key is not valid any more, or that of a stream sends too much.
        """
        headers, context = exchange.request.headers, exchange.request.context
        if route.endswith(_STREAM):
            await access.admit(route, headers, context)
        else:
            access.recognise(route, headers, context)

    async def _live(self, message: Any, exchange: RpcExchange) -> Any:
        return message_class("ServerLiveResponse")(live=True)

    async def _ready(self, message: Any, exchange: RpcExchange) -> Any:
        return message_class("ServerReadyResponse")(ready=self._server.unready_error() is None)

    async def _metadata(self, message: Any, exchange: RpcExchange) -> Any:
        return message_class("ServerMetadataResponse")(
            name=NAME, version=server_version(), extensions=self._server.extensions
        )

    async def _model_ready(self, message: Any, exchange: RpcExchange) -> Any:
        """Return the readiness of a model. An unknown model is not ready, as in Triton."""
        try:
            self._server.check_ready(message.name, message.version)
        except LimelightError:
            return message_class("ModelReadyResponse")(ready=False)
        return message_class("ModelReadyResponse")(ready=True)

    async def _model_metadata(self, message: Any, exchange: RpcExchange) -> Any:
        metadata = self._server.metadata(message.name, message.version)
        return ParseDict(asdict(metadata), message_class("ModelMetadataResponse")())

    async def _configuration(self, message: Any, exchange: RpcExchange) -> Any:
        configuration = self._server.configuration(message.name, message.version)
        return ParseDict({"config": configuration}, message_class("ModelConfigResponse")())

    async def _statistics(self, message: Any, exchange: RpcExchange) -> Any:
        self._metrics.flush()
        found = await asyncio.to_thread(self._server.statistics, message.name, message.version)
        tree = {"model_stats": [asdict(model) for model in found]}
        return ParseDict(tree, message_class("ModelStatisticsResponse")())

    async def _index(self, message: Any, exchange: RpcExchange) -> Any:
        models = self._server.index()
        selected = [model for model in models if not message.ready or model["state"] == "READY"]
        return ParseDict({"models": selected}, message_class("RepositoryIndexResponse")())

    async def _load(self, message: Any, exchange: RpcExchange) -> Any:
        await self._control("load", message, exchange)
        return message_class("RepositoryModelLoadResponse")()

    async def _unload(self, message: Any, exchange: RpcExchange) -> Any:
        await self._control("unload", message, exchange)
        return message_class("RepositoryModelUnloadResponse")()

    async def _control(self, action: str, message: Any, exchange: RpcExchange) -> None:
        context = exchange.request.context
        await self._server.control(action, message.model_name, message.parameters, context)

    async def _infer(self, message: Any, exchange: RpcExchange) -> Any:
        server, context = self._server, exchange.request.context
        with self._upload_budget.reserve(max_bytes=server.settings.max_bytes) as reservation:
            reservation.grow_to(message.ByteSize())
            classifier = server.route(
                message.model_name, message.model_version, exchange.request.headers, context
            )
            exchange.set_model(classifier)
            request = read_request(message)
            context.end_stage("read", exchange.request.context.started)
            response = await server.inference.infer(classifier, request, context)
            exchange.winners, exchange.method = response.winners, response.method
        started = time.perf_counter()
        answer = write_response(response)
        context.end_stage("render", started)
        return answer


def _serialize(message: Any) -> bytes:
    content: bytes = message.SerializeToString()
    return content
