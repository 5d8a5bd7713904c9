"""Endpoints `/predict` and `/explain`: from the body of a request to its response."""

import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager, nullcontext

from limelight.explanations.methods import METHODS
from limelight.result_builder import winner_of
from service.http.exchange import Exchange
from service.http.json_responses import json_response
from service.http.messages import Response
from service.http.parameters import (
    ExplainParameters,
    PredictParameters,
    check_names,
    parse_count,
)
from service.http.request_body import is_form, read_form, read_image
from service.inference.admission import UploadBudget
from service.inference.classifier import Classifier
from service.inference.model_registry import ModelRegistry

LOW_PRIORITY = {"/predict": False, "/explain": True}
"""True for a route whose requests are rejected before those of the other."""

_VARY_ACCEPT = ((b"vary", b"Accept"),)


def masked_images(route: str, query: Mapping[str, str], classifier: Classifier) -> int:
    """Return the number of masked images that the query of a request asks for.

    It is 0 if the query is invalid: the request is then rejected for that.
    """
    name = query.get("method")
    if route != "/explain" or name not in METHODS:
        return 0
    if (text := query.get("evaluations")) is None:
        return classifier.masked_images(name)
    asked = parse_count(text)
    return 0 if asked is None else classifier.masked_images(name, asked)


class PredictionEndpoints:
    """Endpoints `/predict` and `/explain`.

    Args:
        registry: models by name.
        upload_budget: bytes that all uploads together may hold.
        max_bytes: size of the largest upload.
    """

    def __init__(
        self, registry: ModelRegistry, upload_budget: UploadBudget, *, max_bytes: int
    ) -> None:
        self._registry = registry
        self._upload_budget = upload_budget
        self._max_bytes = max_bytes

    async def predict(self, exchange: Exchange) -> Response:
        """Answer `POST /predict`."""
        return await self._classify(exchange, self._prediction)

    async def explain(self, exchange: Exchange) -> Response:
        """Answer `POST /explain`."""
        return await self._classify(exchange, self._explanation)

    async def _classify(
        self,
        exchange: Exchange,
        answer: Callable[[Exchange, Classifier, bytes, Mapping[str, str]], Awaitable[Response]],
    ) -> Response:
        """Check the query, reserve bytes for the body, admit the request, and answer it."""
        request, low_priority = exchange.request, LOW_PRIORITY[exchange.route]
        form = is_form(request)
        fields = request.query
        check_names(fields, exchange.route)
        with self._upload_budget.reserve(
            max_bytes=self._max_bytes, declared=request.declared_length
        ) as reservation:
            started = time.perf_counter()
            if form:  # its fields may name the model
                upload = await read_form(request, reservation)
                request.context.end_stage("read", started)
                fields = upload.fields | dict(fields)
            classifier = exchange.classifier or self._registry.route(
                fields.get("model"), fields.get("version"), request.headers, request.context
            )
            exchange.classifier = classifier
            body = upload.image if form else None
            if body is None and not request.arrived():
                # A slow body must not occupy the queue, and a client that is rejected need not send
                # its body. So the request is only checked here, and admitted below.
                if not exchange.checked:
                    with classifier.admit(request.context, low_priority=low_priority):
                        pass
                body = await read_image(request, reservation)
            # Most images were admitted when the head arrived, and count until the answer.
            admitted: AbstractContextManager[None] = nullcontext()
            if exchange.admitted is None:
                admitted = classifier.admit(request.context, low_priority=low_priority)
            with admitted:
                if body is None:
                    body = await read_image(request, reservation)
                if not form:
                    request.context.end_stage("read", started)
                return await answer(exchange, classifier, body, fields)

    async def _prediction(
        self, exchange: Exchange, classifier: Classifier, body: bytes, fields: Mapping[str, str]
    ) -> Response:
        parameters, context = PredictParameters.parse(fields), exchange.request.context
        prediction = await classifier.predict(body, top_k=parameters.top_k, context=context)
        started = time.perf_counter()
        exchange.winners = (winner_of(prediction),)
        response = json_response(prediction)
        context.end_stage("render", started)
        return response

    async def _explanation(
        self, exchange: Exchange, classifier: Classifier, body: bytes, fields: Mapping[str, str]
    ) -> Response:
        request, context = exchange.request, exchange.request.context
        parameters = ExplainParameters.parse(fields, request.header(b"accept", "*/*"))
        explanation, picture = await classifier.explain(
            body,
            parameters.options,
            top_k=parameters.top_k,
            style=parameters.style,
            context=context,
        )
        exchange.winners = (winner_of(explanation),)
        exchange.method = explanation.cam.method
        # The Accept header selects PNG or JSON, so caches need `Vary: Accept`.
        if parameters.style is not None:
            return Response(picture, 200, b"image/png", _VARY_ACCEPT)
        started = time.perf_counter()
        response = json_response(explanation, headers=_VARY_ACCEPT)
        context.end_stage("render", started)
        return response
