"""A request on its way to an answer, and what an endpoint is."""

from collections.abc import Awaitable, Callable

from service.answers import Prediction
from service.classifier import Classifier
from service.http import Request, Response

_NO_NUMBER = float("nan")


class Exchange:
    """A request, and what becomes known of it on the way to its answer."""

    __slots__ = (
        *("confidence", "flags", "label", "method", "model"),
        *("request", "route", "version"),
    )

    def __init__(self, request: Request, route: str) -> None:
        self.request, self.route = request, route
        self.model = self.version = "none"
        self.label: str | None = None
        self.method: str | None = None
        self.confidence = _NO_NUMBER
        self.flags: tuple[str, ...] = ()

    def asked(self, classifier: Classifier) -> None:
        self.model, self.version = classifier.manifest.name, classifier.manifest.version

    def predicted(self, prediction: Prediction) -> None:
        self.label, self.confidence = prediction.label, float(prediction.confidence)
        self.flags = prediction.flags


Endpoint = Callable[[Exchange], Awaitable[Response]]
"""Answers an exchange, or raises a `ServiceError`."""
