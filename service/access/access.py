"""Access to the service by API key: who sends a request, and whether the key may do that."""

import asyncio
from collections.abc import Mapping

from limelight.errors import LimelightError, NotReady
from service.access.keyring import Keyring
from service.access.rate_limit import RateLimits
from service.access.routes import SCOPES, open_routes
from service.caller import Caller
from service.errors import PermissionDenied, RateLimited, Unauthenticated
from service.request_context import RequestContext
from service.settings import Settings
from service.telemetry.metrics import Metrics

Headers = Mapping[bytes, bytes]

_BEARER = b"bearer "
_MISSING = (
    "this service asks for an API key: send it as `Authorization: Bearer KEY` or `X-Api-Key: KEY`"
)
_UNKNOWN = "the API key is not valid: it may have been replaced; ask the operator for another"


class Access:
    """Check of the keys of all requests of one worker.

    Args:
        workers: number of workers, which share the rate of a key.

    Raises:
        ValueError: the settings name no file of keys.
    """

    def __init__(self, settings: Settings, metrics: Metrics, *, workers: int) -> None:
        if settings.keys_file is None:
            raise ValueError("the settings name no file of keys")
        self._keyring = Keyring(settings.keys_file, metrics.set_keys)
        self._open = open_routes(
            public_page=settings.public_page, public_metrics=settings.public_metrics
        )
        self._limits = RateLimits(workers)
        self._watching: asyncio.Task[None] | None = None

    @property
    def unready_reason(self) -> str | None:
        """Reason why no key is valid; None if some are."""
        if not self._keyring.is_empty:
            return None
        return f"LIMELIGHT_KEYS_FILE is not used: {self._keyring.problem}"

    def start(self) -> None:
        """Follow the file of keys; call this in the event loop."""
        self._watching = asyncio.create_task(self._keyring.watch())

    def stop(self) -> None:
        """Follow the file of keys no more."""
        if self._watching is not None:
            self._watching.cancel()

    def admit_now(
        self, route: str, headers: Headers, context: RequestContext, *, counts: bool = True
    ) -> bool:
        """Do what `admit` does, if that is possible without waiting; return False if it is not.

        Raises:
            LimelightError: see `admit`.
        """
        if route in self._open:
            return True
        key = _key(headers)
        caller = None if key is None else self._keyring.find(key)
        if caller is None:
            if self._keyring.is_empty:
                raise _unusable(self.unready_reason)
            if key is not None and self._keyring.has_slow:
                return False
            raise Unauthenticated(_MISSING if key is None else _UNKNOWN, given=key is not None)
        self._check(caller, route, context, counts=counts)
        return True

    async def admit(
        self, route: str, headers: Headers, context: RequestContext, *, counts: bool = True
    ) -> None:
        """Find the caller of a request, set it in the context, and check its scopes and its rate.

        Without `counts`, the request does not count for the rate.

        Raises:
            Unauthenticated: the request has no key, or one that is not valid.
            PermissionDenied: the key lacks the scope of the route.
            RateLimited: the key has sent more requests than its rate allows.
            NotReady: the file of keys has been broken since the start.
            Overloaded: too many unknown keys wait to be compared with slow hashes.
        """
        if self.admit_now(route, headers, context, counts=counts):
            return
        caller = await self._keyring.find_slow(_key(headers) or b"")
        if caller is None:
            raise Unauthenticated(_UNKNOWN, given=True)
        self._check(caller, route, context, counts=counts)

    def recognise(self, route: str, headers: Headers, context: RequestContext) -> None:
        """Set the caller of a request that has been admitted before.

        Raises:
            Unauthenticated: the key was taken back since then.
        """
        key = _key(headers)
        caller = None if key is None else self._keyring.find(key)
        if caller is not None:
            context.caller = caller
        elif route not in self._open:
            raise Unauthenticated(_UNKNOWN, given=True)

    def _check(self, caller: Caller, route: str, context: RequestContext, *, counts: bool) -> None:
        context.caller = caller
        needed = SCOPES.get(route)
        if needed is not None and caller.scopes.isdisjoint(needed):
            raise PermissionDenied.of(needed)
        wait_s = self._limits.wait_s(caller) if counts else 0.0
        if wait_s:
            raise RateLimited(
                f"this API key may send {caller.rate:g} requests per second: send the next one in "
                f"{wait_s:.2f} s",
                retry_after_s=wait_s,
            )


def _unusable(reason: str | None) -> LimelightError:
    return NotReady(reason or "the keys are being read", retry_after_s=10)


def _key(headers: Headers) -> bytes | None:
    """Return the key that a request has; None: it has none."""
    given = headers.get(b"authorization")
    if given is not None and given[: len(_BEARER)].lower() == _BEARER:
        return given[len(_BEARER) :].strip()
    return headers.get(b"x-api-key")
