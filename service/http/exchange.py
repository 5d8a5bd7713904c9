"""Exchange of a request and its response, and the type of an endpoint."""

from collections.abc import Awaitable, Callable, Sequence

from limelight.result_builder import Winner
from service.http.messages import Request, Response
from service.inference.admission import Admitted
from service.inference.classifier import Classifier


class Exchange:
    """Request, with the facts that are recorded about it. Each request has one exchange.

    Attributes:
        classifier: model of the request; None until it is known.
        checked: True if admission has already been checked when the head arrived.
        admitted: the image of the request, if it was admitted then; see `release`.
        winners: winning class of each image.
        method: explanation method; None: no explanation was requested.
    """

    __slots__ = ("admitted", "checked", "classifier", "method", "request", "route", "winners")

    def __init__(self, request: Request, route: str) -> None:
        self.request, self.route = request, route
        self.classifier: Classifier | None = None
        self.checked = False
        self.admitted: Admitted | None = None
        self.winners: Sequence[Winner] = ()
        self.method: str | None = None

    def admit(self, admitted: Admitted) -> None:
        """Count an image as admitted until `release`."""
        admitted.__enter__()
        self.admitted = admitted

    def release(self) -> None:
        """Let go of the image that was admitted when the head arrived."""
        if self.admitted is not None:
            self.admitted.__exit__(None, None, None)
            self.admitted = None

    @property
    def model(self) -> str:
        """Name of the model, or "none"."""
        return "none" if self.classifier is None else self.classifier.manifest.name

    @property
    def version(self) -> str:
        """Version of the model, or "none"."""
        return "none" if self.classifier is None else self.classifier.manifest.version

    @property
    def digest(self) -> str | None:
        """Digest of the model's artefact; None if the model is not known."""
        return None if self.classifier is None else self.classifier.digest


Endpoint = Callable[[Exchange], Awaitable[Response]]
"""Function that answers an exchange, or raises a `LimelightError`."""
