"""Scopes that the routes of HTTP and the methods of gRPC ask for."""

from collections.abc import Mapping

from limelight.api_keys import Scope

_GRPC = "/inference.GRPCInferenceService"
_MODEL = "/v2/models/{name}"
# An inference request says only in its body whether it wants maps: it needs one of the two here,
# and `service.oip.inference` checks which one.
_INFER: tuple[Scope, ...] = ("predict", "explain")

SCOPES: Mapping[str, tuple[Scope, ...]] = {
    "/predict": ("predict",),
    "/explain": ("explain",),
    "/metrics": ("metrics",),
    "/v2/models/stats": ("metrics",),
    **{
        f"{model}/{route}": scopes
        for model in (_MODEL, f"{_MODEL}/versions/{{version}}")
        for route, scopes in {"infer": _INFER, "stats": ("metrics",)}.items()
    },
    "/v2/repository/models/{name}/load": ("admin",),
    "/v2/repository/models/{name}/unload": ("admin",),
    f"{_GRPC}/ModelInfer": _INFER,
    f"{_GRPC}/ModelStreamInfer": _INFER,
    f"{_GRPC}/ModelStatistics": ("metrics",),
    f"{_GRPC}/RepositoryModelLoad": ("admin",),
    f"{_GRPC}/RepositoryModelUnload": ("admin",),
}
"""One of these scopes is needed; any key may use a route that is not listed."""

OPEN = frozenset(
    {
        "/livez",
        "/readyz",
        # The same over gRPC. Kubernetes' probes can send no metadata.
        "/grpc.health.v1.Health/Check",
        "/grpc.health.v1.Health/List",
        "/grpc.health.v1.Health/Watch",
    }
)
"""Routes that never ask for a key."""
PAGE = frozenset({"/", "/docs", "/page/{file}", "/examples/{file}"})
"""Web pages and their files, which hold no secret. A browser cannot send a key for them."""
METRICS = frozenset({"/metrics"})


def open_routes(*, public_page: bool, public_metrics: bool) -> frozenset[str]:
    """Return the routes that ask for no key."""
    public = (PAGE if public_page else set()) | (METRICS if public_metrics else set())
    return OPEN | public
