"""Admission to the queue and the upload budget, for HTTP, the Open Inference Protocol and gRPC.

A request is rejected if its deadline cannot be met, if the queue is full, if its API key has too
large a part of the queue, or if the upload budget is used up. Explanations and masked images have
low priority: they are rejected first, so that predictions continue. `X-Criticality` moves a request
up or down.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from limelight.errors import DeadlineExceeded, Overloaded
from service.caller import Caller, Criticality
from service.errors import BodyTooLarge
from service.request_context import RequestContext
from service.settings import Settings

# Weight of the newest value in the running means.
_NEWEST = 0.2
# Share of the queue, and of the time until the deadline, for requests of low priority.
_LOW_PRIORITY_SHARE = 0.5
# The same by criticality. Critical requests still have room when the queue is full for the others.
_SHARES: dict[Criticality, float] = {"sheddable": 0.5, "default": 1.0, "critical": 1.25}
# Images that a caller may have in the queue, for each that there is room for (dynamic threshold,
# Choudhury and Hahne, 1998). One caller alone gets 8/9 of the queue; the rest is for the next one.
_THRESHOLD = 8.0


def largest_request(settings: Settings) -> int:
    """Return the maximum number of images in one request: one batch, or half of the queue if less.

    A larger request for explanations would always be rejected, because it has low priority.
    """
    return min(settings.max_batch, max(1, int(settings.max_queued * _LOW_PRIORITY_SHARE)))


class Admission:
    """Admission control for the queue of one model.

    Args:
        max_queued: maximum number of admitted images. For requests of low priority, the limit is
            half of it.

    Attributes:
        admitted: number of images that are in the queue, on their way to it, or in a batch.
        seconds_per_image: running mean; 0 before the first batch.
        background_seconds_per_image: the same for background work.
    """

    def __init__(self, max_queued: int) -> None:
        self.max_queued = max_queued
        self.admitted = 0
        self.seconds_per_image = 0.0
        self.background_seconds_per_image = 0.0
        self._lag_s = 0.0
        # Admitted images of each caller that has some, and its share: of the foreground, and of the
        # background.
        self._callers: tuple[dict[str, tuple[int, float]], dict[str, tuple[int, float]]] = ({}, {})

    @property
    def margin_s(self) -> float:
        """Delay by a busy event loop: one lag before the request's batch, and one after it."""
        return 2 * self._lag_s

    def expected_s(self, images: float) -> float:
        """Return the expected seconds until `images` images are answered, if none are ahead."""
        return images * self.seconds_per_image + self.margin_s

    def expected_background_s(self, images: float) -> float:
        """Return what `expected_s` does, for background work."""
        seconds = self.background_seconds_per_image or self.seconds_per_image
        return images * seconds + self.margin_s

    def observe_batch(self, images: int, seconds: float, *, background: bool = False) -> None:
        """Update the mean seconds per image with a completed batch."""
        latest = seconds / images
        if background:
            mean = self.background_seconds_per_image
            self.background_seconds_per_image = _mean(mean, latest)
        else:
            self.seconds_per_image = _mean(self.seconds_per_image, latest)

    def observe_lag(self, seconds: float) -> None:
        """Update the mean delay of the event loop."""
        self._lag_s += (seconds - self._lag_s) * _NEWEST

    def rejection(
        self,
        context: RequestContext,
        *,
        low_priority: bool = False,
        images: int = 1,
        background: bool = False,
    ) -> Overloaded | DeadlineExceeded | None:
        """Return the reason to reject `images` images; None if they can be admitted now.

        The reason is `Overloaded` if the queue is full, or has too many images of this caller, and
        `DeadlineExceeded` if the response would miss the deadline at the current seconds per image.
        """
        share = _SHARES[context.criticality]
        if low_priority:
            share *= _LOW_PRIORITY_SHARE
        ahead, caller = self.admitted, context.caller
        wait_s = self._wait_s(caller, images, background=background)
        room = self.max_queued * share
        if ahead + images - 1 >= room:
            return Overloaded(
                f"{ahead} images are waiting already: try again", retry_after_s=wait_s
            )
        if caller.name:
            own = sum(callers.get(caller.name, (0, 0.0))[0] for callers in self._callers)
            if own + images - 1 >= _THRESHOLD * caller.share * (room - ahead):
                return Overloaded(
                    f"{own} images of this API key are waiting already: try again",
                    retry_after_s=wait_s,
                )
        # With no image ahead there is no wait, however slow the last batch was.
        if ahead and time.perf_counter() + wait_s > context.share_of_time(min(1.0, share)):
            return DeadlineExceeded(
                f"the answer would take about {wait_s:.3f} s, longer than allowed: try again, or "
                "allow more time",
                retry_after_s=wait_s,
            )
        return None

    def admit(
        self,
        context: RequestContext,
        *,
        low_priority: bool = False,
        images: int = 1,
        background: bool = False,
    ) -> "Admitted":
        """Admit `images` images, from before they are decoded until they are answered.

        With `background`, they are submitted to the queue as background work. They count from the
        beginning of the `with` statement to its end.

        A request that cannot be served in time is rejected here, before any work is done for it.

        Raises:
            Overloaded, DeadlineExceeded: see `rejection`.
        """
        rejection = self.rejection(
            context, low_priority=low_priority, images=images, background=background
        )
        if rejection is not None:
            try:
                raise rejection
            finally:
                # The traceback refers to this frame. Without this deletion, the frame would refer
                # to the exception, and the cycle would last until a garbage collection.
                del rejection
        return Admitted(self, context.caller, images, background=background)

    def admitted_now(self, context: RequestContext) -> "Admitted":
        """Return one image whose admission was checked a moment ago, by `rejection`."""
        return Admitted(self, context.caller, 1, background=False)

    def add(self, caller: Caller, images: int, *, background: bool) -> None:
        """Count images of a caller, or fewer if the number is negative."""
        callers = self._callers[background]
        self.admitted += images
        admitted = callers.get(caller.name, (0, 0.0))[0] + images
        if admitted:
            callers[caller.name] = admitted, caller.share
        else:
            del callers[caller.name]

    def _wait_s(self, caller: Caller, images: int, *, background: bool) -> float:
        """Return the expected seconds until `images` more images of a caller are answered.

        Background work hardly delays other work, but waits for it.
        """
        if not background:
            return self.expected_s(_served(self._callers[False], caller, images))
        before = sum(admitted for admitted, _ in self._callers[False].values())
        served = _served(self._callers[True], caller, images)
        return self.expected_background_s(served) + before * self.seconds_per_image


class Admitted:
    """Images that are admitted; a context manager."""

    __slots__ = ("_admission", "_background", "_caller", "_images")

    def __init__(
        self, admission: Admission, caller: Caller, images: int, *, background: bool
    ) -> None:
        self._admission, self._caller = admission, caller
        self._images, self._background = images, background

    def __enter__(self) -> None:
        self._admission.add(self._caller, self._images, background=self._background)

    def __exit__(self, *exception: object) -> None:
        self._admission.add(self._caller, -self._images, background=self._background)


def _mean(before: float, latest: float) -> float:
    return before + (latest - before) * _NEWEST if before else latest


def _served(callers: dict[str, tuple[int, float]], caller: Caller, images: int) -> float:
    """Return the images that a fair queue serves up to the last of `images` more of a caller.

    The others are served in the meantime by their shares, but not more than they have.
    """
    own = images + callers.get(caller.name, (0, 0.0))[0]
    served = float(own)
    for name, (admitted, share) in callers.items():
        if name != caller.name:
            served += min(admitted, own * share / caller.share)
    return served


class UploadBudget:
    """Limit on the bytes of uploads in memory, shared by all requests of a worker.

    Attributes:
        reserved_bytes: sum of the present reservations.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self.reserved_bytes = 0

    @contextmanager
    def reserve(self, *, max_bytes: int, declared: bytes = b"") -> Iterator["Reservation"]:
        """Reserve bytes for the body of a request until it is answered.

        The reservation grows with the bytes that arrive, not with the declared Content-Length: a
        client cannot use up the budget without sending data.

        Raises:
            BodyTooLarge: the declared length is more than `max_bytes`.
        """
        reservation = Reservation(self, max_bytes)
        if declared.isdigit() and int(declared) > max_bytes:
            raise reservation.too_large()
        try:
            yield reservation
        finally:
            self.reserved_bytes -= reservation.size

    def grow(self, reservation: "Reservation", size: int) -> None:
        """Increase a reservation to `size` bytes.

        Raises:
            Overloaded: the budget has too few bytes left.
        """
        more = size - reservation.size
        if self.reserved_bytes and self.reserved_bytes + more > self._max_bytes:
            raise Overloaded("too many uploads are in progress: try again", retry_after_s=1)
        self.reserved_bytes += more
        reservation.size = size


class Reservation:
    """Part of an `UploadBudget` that one request has reserved."""

    __slots__ = ("_budget", "_max_bytes", "size")

    def __init__(self, budget: UploadBudget, max_bytes: int) -> None:
        self._budget, self._max_bytes, self.size = budget, max_bytes, 0

    def grow_to(self, size: int, *, beside: int = 0) -> None:
        """Reserve `size` bytes in total, and `beside` more for another form of the same body.

        Raises:
            BodyTooLarge: `size` is more than one request may have.
            Overloaded: the budget has too few bytes left.
        """
        if size > self._max_bytes:
            raise self.too_large()
        if size + beside > self.size:
            self._budget.grow(self, size + beside)

    def too_large(self) -> BodyTooLarge:
        """Return the error for a body that is too large."""
        return BodyTooLarge(f"the body has more than {self._max_bytes} bytes: send a smaller one")
