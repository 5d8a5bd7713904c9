"""Deadline, request id and status codes of gRPC calls."""

import time
from typing import Any

import grpc
import pytest

from limelight.errors import LimelightError
from service import errors as service_errors
from service.http.statuses import STATUS
from service.oip.errors import InvalidInference, status_of
from service.oip.grpc.exchange import RpcExchange, status_code


class Context:
    """Fake context of a gRPC call that has `remaining_s` left."""

    def __init__(self, remaining_s: float | None, *metadata: tuple[str, str | bytes]) -> None:
        self._remaining_s, self._metadata = remaining_s, metadata

    def time_remaining(self) -> float | None:
        return self._remaining_s

    def invocation_metadata(self) -> Any:
        return self._metadata

    def done(self) -> bool:
        return False


@pytest.mark.parametrize(("remaining_s", "expected_s"), [(None, 10), (0.5, 0.5), (60, 10)])
def test_deadline_of_the_caller_shortens_the_timeout(
    remaining_s: float | None, expected_s: float
) -> None:
    exchange = RpcExchange.begin(Context(remaining_s), timeout_s=10)
    left_s = exchange.request.context.deadline - time.perf_counter()
    assert expected_s - 0.1 < left_s <= expected_s


def test_request_id_of_the_caller_is_kept() -> None:
    context = Context(None, ("x-request-id", "a-1"), ("some-bin", b"\xff"))
    assert RpcExchange.begin(context, timeout_s=1).request.context.id == "a-1"
    made = RpcExchange.begin(Context(None), timeout_s=1).request.context.id
    assert len(made) == 32


@pytest.mark.parametrize("kind", [*STATUS, InvalidInference])
def test_client_errors_do_not_map_to_server_failures(
    kind: type[LimelightError],
) -> None:
    why = kind.__new__(kind)  # only the class matters
    code = status_code(why)
    ours = code in (
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
    )
    assert ours == (status_of(kind) >= 500 or kind is service_errors.RequestTimeout)
