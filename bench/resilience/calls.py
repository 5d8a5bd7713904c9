"""Requests to load the service with."""

from bench.common.client import Call, http_request
from bench.serving.workloads import WORKLOADS

CIFAR_PNG, DIGIT_PNG, PHOTO_JPEG = (
    WORKLOADS[name].bodies(1)[0] for name in ("cifar10-png", "digits-png", "cifar10-jpeg")
)


def cifar_call(route: str = "/predict", *, timeout_ms: int | None = None) -> Call:
    """A small photograph for the model `cifar10`, counted under its route."""
    headers = {} if timeout_ms is None else {"X-Timeout-Ms": str(timeout_ms)}
    return Call(route, http_request("POST", f"{route}?model=cifar10", CIFAR_PNG, headers))
