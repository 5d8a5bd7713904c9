"""A request on its way to an answer, and what an endpoint is."""

from collections.abc import Awaitable, Callable, Sequence

from limelight.result_builder import Winner
from service.http.messages import Request, Response
from service.inference.classifier import Classifier


class Exchange:
    """A request, and what becomes known of it on the way to its answer."""

    __slots__ = ("method", "model", "request", "route", "version", "winners")

    def __init__(self, request: Request, route: str) -> None:
        self.request, self.route = request, route
        self.model = self.version = "none"
        self.winners: Sequence[Winner] = ()
        self.method: str | None = None

    def asked(self, classifier: Classifier) -> None:
        self.model, self.version = classifier.manifest.name, classifier.manifest.version


Endpoint = Callable[[Exchange], Awaitable[Response]]
"""Answers an exchange, or raises a `LimelightError`."""
