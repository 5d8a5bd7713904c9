"""What is admitted to the queue, and what is rejected and why: one place for HTTP, OIP and gRPC.

A request is rejected where its answer would come too late, where too many images wait, or where
too many bytes of uploads are held. Explanations and masked images have low priority: they are
rejected first, so that predictions go on.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from limelight.errors import DeadlineExceeded, Overloaded
from service.http.errors import BodyTooLarge
from service.request_context import RequestContext
from service.settings import Settings

# Weight of the newest batch in the running means.
_NEWEST = 0.2
# Of the queue and of the time left, what requests of low priority may use.
_LOW_PRIORITY_SHARE = 0.5


def largest_request(settings: Settings) -> int:
    """Most images of one request: one batch, and no more than may ever wait.

    Explanations are rejected when half of the queue is taken.
    """
    return min(settings.max_batch, max(1, int(settings.max_queued * _LOW_PRIORITY_SHARE)))


class Admission:
    """The places in the queue of one model.

    Args:
        max_queued: most images that wait; further ones are rejected, those of low priority from
            half of it on.

    Attributes:
        places: images that are in the queue or on their way to it.
        seconds_per_image: running mean; 0 before the first batch.
    """

    def __init__(self, max_queued: int) -> None:
        self.max_queued = max_queued
        self.places = 0
        self.seconds_per_image = 0.0
        self._lag_s = 0.0

    @property
    def margin_s(self) -> float:
        """What a busy event loop adds to a request: it comes late to its head, and to its end."""
        return 2 * self._lag_s

    def expected_s(self, images: int) -> float:
        """Seconds until so many images are answered, if nothing comes before them."""
        return images * self.seconds_per_image + self.margin_s

    def ran(self, images: int, seconds: float) -> None:
        """Count a batch that ran."""
        latest = seconds / images
        weight = _NEWEST if self.seconds_per_image else 1.0
        self.seconds_per_image += (latest - self.seconds_per_image) * weight

    def lagged(self, seconds: float) -> None:
        """Count how long the event loop took to come to an answer."""
        self._lag_s += (seconds - self._lag_s) * _NEWEST

    def rejection(
        self, context: RequestContext, *, low_priority: bool = False, images: int = 1
    ) -> Overloaded | DeadlineExceeded | None:
        """Why `images` cannot be served in time; None where they can, for all that is known now.

        Overloaded: too many are in the queue or on their way to it. DeadlineExceeded: at the
        present speed the answer would come too late.
        """
        share = _LOW_PRIORITY_SHARE if low_priority else 1.0
        ahead = self.places
        wait_s = self.expected_s(ahead + images)
        if ahead + images - 1 >= self.max_queued * share:
            return Overloaded(
                f"{ahead} images are waiting already: try again", retry_after_s=wait_s
            )
        # With nobody ahead there is no wait, however slow the last batch was.
        if ahead and time.perf_counter() + wait_s > context.share_of_time(share):
            return DeadlineExceeded(
                f"the answer would take about {wait_s:.3f} s, longer than it may: try again, or "
                "allow more time",
                retry_after_s=wait_s,
            )
        return None

    @contextmanager
    def admit(
        self, context: RequestContext, *, low_priority: bool = False, images: int = 1
    ) -> Iterator[None]:
        """Reserve `images` places, from before one is decoded until it is answered.

        Whoever cannot be served in time learns it here, before any work is done for them.

        Raises:
            Overloaded, DeadlineExceeded: see `rejection`.
        """
        rejection = self.rejection(context, low_priority=low_priority, images=images)
        if rejection is not None:
            try:
                raise rejection
            finally:
                # Its traceback holds this frame, which would hold it, until a garbage collection.
                del rejection
        self.places += images
        try:
            yield
        finally:
            self.places -= images


class UploadBudget:
    """How many bytes of uploads are held at a time; one for all requests of a worker."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self.held_bytes = 0

    @contextmanager
    def reserve(self, *, max_bytes: int, declared: bytes = b"") -> Iterator["Reservation"]:
        """Hold bytes for a request's body, until it is answered.

        The reservation grows with what arrives, not with what is declared (the Content-Length):
        nobody takes bytes by a promise.

        Raises:
            BodyTooLarge: more than `max_bytes` are declared.
        """
        reservation = Reservation(self, max_bytes)
        if declared.isdigit() and int(declared) > max_bytes:
            raise reservation.too_large()
        try:
            yield reservation
        finally:
            self.held_bytes -= reservation.size

    def grow(self, reservation: "Reservation", size: int) -> None:
        """Bring a reservation to `size` bytes.

        Raises:
            Overloaded: the other bodies leave no room for them.
        """
        more = size - reservation.size
        if self.held_bytes and self.held_bytes + more > self._most_bytes:
            raise Overloaded("too many uploads are held already: try again", retry_after_s=1)
        self.held_bytes += more
        reservation.size = size


class Reservation:
    """One request's share of an `UploadBudget`."""

    __slots__ = ("_budget", "_max_bytes", "size")

    def __init__(self, budget: UploadBudget, max_bytes: int) -> None:
        self._budget, self._max_bytes, self.size = budget, max_bytes, 0

    def grow_to(self, size: int) -> None:
        """Hold `size` bytes.

        Raises:
            BodyTooLarge: they are more than one request may have.
            Overloaded: the other bodies leave no room for them.
        """
        if size > self._max_bytes:
            raise self.too_large()
        if size > self.size:
            self._budget.grow(self, size)

    def too_large(self) -> BodyTooLarge:
        """Make the error of a body that is too large."""
        return BodyTooLarge(f"the body has more than {self._max_bytes} bytes: send a smaller image")
