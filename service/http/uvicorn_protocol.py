"""Uvicorn's protocol with early rejection, refusals of the server itself, and time limits."""

import logging
from collections.abc import Callable, Iterable
from typing import Any, cast

from starlette.types import Receive, Scope
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from limelight.errors import LimelightError, Overloaded
from service.errors import RequestTimeout
from service.headers import CLOSE, Header
from service.http.bounded_parser import BODY, HEAD
from service.http.closing import ClosingProtocol, abandon
from service.http.json_responses import problem_response
from service.http.messages import Response, choose_id
from service.http.single_write import encode, writes_only
from service.settings import Settings

logger = logging.getLogger("limelight.http")

EarlyRejection = Callable[[Scope, Receive, bool], tuple[Response, Iterable[Header]] | None]
"""Function that rejects a request by its head: the response and additional headers, or None.

The third argument is True if the body has arrived, too.
"""

_ALWAYS_ANSWERED = frozenset(
    {"/livez", "/readyz", "/healthz", "/v2/health/live", "/v2/health/ready"}
)
# Part of a response that a client must take in each period of LIMELIGHT_WRITE_TIMEOUT_S.
_MIN_TAKEN_BYTES = 65_536


class Protocol(ClosingProtocol):
    """Protocol of one connection.

    Args:
        reject_early: called for the head of each request. Under overload most requests are
            rejected, and the time of a task for each of them would be lost to the others.
        on_refusal: called for each error that is answered without the application.

    Attributes:
        surplus: True for a connection over the limit. Only its requests for health are answered.
    """

    def __init__(
        self,
        *arguments: Any,
        settings: Settings,
        reject_early: EarlyRejection,
        on_refusal: Callable[[LimelightError], None],
        **options: Any,
    ) -> None:
        super().__init__(*arguments, settings=settings, **options)
        self.surplus = False
        self._settings = settings
        self._reject_early = reject_early
        self._on_refusal = on_refusal
        self._refusal: LimelightError | None = None
        # Time since which the client takes too little of a response, and what it had taken then.
        self._stalled_since, self._taken_bytes = 0.0, -1

    def refuse(self, error: LimelightError) -> None:
        """Close the input, and answer with an error after the responses in progress."""
        self.input_closed = True
        if self.phase is BODY:
            if self.cycle.response_complete:
                self._close()
                return
            if self.cycle is not self._answering:
                self.pipeline.popleft()
            elif self.cycle.response_started:
                self._raw.abort()
                return
            abandon(self.cycle)
        self._refusal = error
        if self.is_answering():
            self.flow.pause_reading()
        else:
            self._write_refusal(error)

    def on_response_complete(self) -> None:
        """Continue with the next request, or answer the one that has been refused."""
        super().on_response_complete()
        if self._refusal is not None and not (self.is_answering() or self._is_closing()):
            self._write_refusal(self._refusal)

    @property
    def unsent_bytes(self) -> int:
        """Bytes of responses that the client has not taken."""
        return self._raw.get_write_buffer_size()

    def stalled_s(self, now: float) -> float:
        """Return the seconds in which the client has taken too little of a response."""
        unsent = self.unsent_bytes
        taken = self.written_bytes - unsent
        if not unsent:
            self._taken_bytes = -1
            return 0.0
        if self._taken_bytes < 0 or taken - self._taken_bytes >= _MIN_TAKEN_BYTES:
            self._stalled_since, self._taken_bytes = now, taken
        return now - self._stalled_since

    def close_if_late(self, now: float) -> None:
        """Close the connection if it has exceeded one of its time limits; call this regularly."""
        settings, waited_s = self._settings, now - self.since
        if self.stalled_s(now) > settings.write_timeout_s:
            self._raw.abort()
        elif self.unsent_bytes:
            return
        elif self.lingering or (self.phase is BODY and not self.is_answering()):
            if waited_s > settings.linger_s:
                self._raw.abort()
        elif self.is_answering():
            return
        elif self.phase is HEAD:
            if waited_s > settings.head_timeout_s:
                self.refuse(RequestTimeout("the head of the request did not arrive in time"))
        elif waited_s > (settings.head_timeout_s if self.cycle is None else settings.keep_alive_s):
            self._raw.close()

    def can_be_closed(self) -> bool:
        """Return True if no response would be lost by closing the connection."""
        return not (self.is_answering() or self.unsent_bytes or self._raw.is_closing())

    def abort(self) -> None:
        """Close the connection at once, and free its memory."""
        self._raw.abort()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._answering = cycle
        # Starlette and uvicorn declare different types for the same objects.
        scope, receive = cast(Scope, cycle.scope), cast(Receive, cycle.receive)
        if self.surplus:
            cycle.keep_alive = False
            if scope["path"] not in _ALWAYS_ANSWERED:
                error = Overloaded("too many connections: try again", retry_after_s=1)
                problem_response(error).write(cycle, (self._id_header(),))
                self._on_refusal(error)
                return
        # Pipelined requests, and clients that wait for "100 Continue", take the normal path.
        if writes_only(cycle) and not (self.pipeline or cycle.waiting_for_100_continue):
            rejection = None
            try:
                rejection = self._reject_early(scope, receive, self.body_arrived)
            except Exception:
                # The normal path answers it with status 500, and this one with nothing.
                logger.exception("a request cannot be checked by its head")
            if rejection is not None:
                response, extra = rejection
                response.write(cycle, extra)
                return
        super()._start_asgi_task(cycle, app)

    def _write_refusal(self, error: LimelightError) -> None:
        response = problem_response(error)
        headers = [*self.server_state.default_headers, *response.all_headers()]
        headers += [self._id_header(), CLOSE]
        self._write(encode(response.status, headers, response.body))
        self._on_refusal(error)
        self._close()

    def _id_header(self) -> Header:
        given = dict(self.headers or ()).get(b"x-request-id")
        return b"x-request-id", choose_id(given).encode()
