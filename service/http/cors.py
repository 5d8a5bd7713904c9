"""Cross-origin requests (CORS): pages of other origins may use the service if a setting says so."""

from collections.abc import Sequence

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from service.headers import DIGEST_HEADER, NOSNIFF, VERSION_HEADER

_EXPOSED = (
    *("X-Request-Id", "Server-Timing", "Retry-After", "Traceresponse"),
    *("Inference-Header-Content-Length", "WWW-Authenticate", DIGEST_HEADER, VERSION_HEADER),
)
_PREFLIGHT_CACHED_S = 600


def allow_origins(app: ASGIApp, origins: Sequence[str]) -> ASGIApp:
    """Return `app` with CORS headers for these origins; `*` is any origin.

    Requests with credentials are not allowed: the service has no cookies.
    """
    middleware = CORSMiddleware(
        app,
        allow_origins=origins,
        allow_methods=("GET", "POST"),
        allow_headers=("*",),
        expose_headers=_EXPOSED,
        max_age=_PREFLIGHT_CACHED_S,
    )
    name, value = NOSNIFF
    middleware.preflight_headers[name.decode()] = value.decode()
    return middleware
