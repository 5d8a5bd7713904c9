"""A request on its way to an answer, and what an endpoint is."""

from collections.abc import Awaitable, Callable, Sequence

from limelight.result_builder import Winner
from service.http.messages import Request, Response
from service.inference.classifier import Classifier


class Exchange:
    """A request, and what becomes known of it on the way to its answer. Made once for each.

    Attributes:
        classifier: the model that is asked, once it is known.
        checked: whether there was time and room for the request when its head arrived.
    """

    __slots__ = ("checked", "classifier", "method", "request", "route", "winners")

    def __init__(self, request: Request, route: str) -> None:
        self.request, self.route = request, route
        self.classifier: Classifier | None = None
        self.checked = False
        self.winners: Sequence[Winner] = ()
        self.method: str | None = None

    @property
    def model(self) -> str:
        """Its name."""
        return "none" if self.classifier is None else self.classifier.manifest.name

    @property
    def version(self) -> str:
        """Its version."""
        return "none" if self.classifier is None else self.classifier.manifest.version


Endpoint = Callable[[Exchange], Awaitable[Response]]
"""Answers an exchange, or raises a `LimelightError`."""
