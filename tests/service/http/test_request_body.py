"""Request headers: time limit and request id; and request bodies that arrive slowly."""

import http.client
import re
import time
from urllib.parse import urlsplit

import httpx
import pytest

from tests.service.http.test_routes import PNG, expect_problem
from tests.serving_kit import Server

MADE = re.compile(r"[0-9a-f]{32}")


def connect(server: Server, timeout_s: float = 10) -> http.client.HTTPConnection:
    """Open a connection whose requests can be sent in pieces."""
    address = urlsplit(server.url)
    return http.client.HTTPConnection(str(address.hostname), address.port, timeout=timeout_s)


def begin_upload(
    connection: http.client.HTTPConnection, size: int, path: str = "/predict", **headers: str
) -> None:
    """Send only the head of a request whose body has `size` bytes."""
    connection.putrequest("POST", path)
    for name, value in {"Content-Length": str(size), **headers}.items():
        connection.putheader(name.replace("_", "-"), value)
    connection.endheaders()


@pytest.mark.parametrize("value", ["abc", "", "0", "-1", "nan", "-inf", "1,5", "10s"])
@pytest.mark.parametrize("path", ["/predict", "/explain"])
def test_malformed_time_limit_is_rejected_and_quoted(
    client: httpx.Client, path: str, value: str
) -> None:
    response = client.post(path, content=PNG, headers={"X-Timeout-Ms": value})
    detail = expect_problem(response, 422, "invalid_parameter")["detail"]
    assert "X-Timeout-Ms" in detail
    assert repr(value) in detail


@pytest.mark.parametrize("value", ["5000", "2.5e3", "inf", "1e300"])
def test_sufficient_time_limit_changes_nothing(client: httpx.Client, value: str) -> None:
    limited = client.post("/predict", content=PNG, headers={"X-Timeout-Ms": value})
    assert limited.json() == client.post("/predict", content=PNG).json()


def test_time_limit_that_is_too_short_is_rejected(client: httpx.Client) -> None:
    for path in ("/predict", "/explain", "/predict?top_k=2"):
        response = client.post(path, content=PNG, headers={"X-Timeout-Ms": "0.001"})
        code = response.json()["code"]
        expect_problem(response, {"deadline": 503, "request_timeout": 408}[code], code)


@pytest.mark.parametrize("content_type", ["image/png", "multipart/form-data; boundary=x"])
def test_body_that_never_arrives_times_out(server: Server, content_type: str) -> None:
    connection = connect(server)
    started = time.monotonic()
    begin_upload(connection, len(PNG), X_Timeout_Ms="300", Content_Type=content_type)
    connection.send(PNG[:20])
    response = connection.getresponse()
    took_s = time.monotonic() - started
    assert response.status == 408
    assert b'"request_timeout"' in response.read()
    assert 0.25 < took_s < 3
    connection.close()


def test_a_slow_body_that_arrives_in_time_is_answered(server: Server) -> None:
    connection = connect(server)
    begin_upload(connection, len(PNG), X_Timeout_Ms="5000")
    for start in range(0, len(PNG), 64):
        connection.send(PNG[start : start + 64])
        time.sleep(0.02)
    assert connection.getresponse().status == 200
    connection.close()


@pytest.mark.parametrize("given", ["a", "x" * 128, "Root=1-5759e988-bd862e3f", "a/b+c:d_e.f-g="])
def test_the_clients_own_request_id_is_echoed(client: httpx.Client, given: str) -> None:
    for path in ("/predict", "/livez", "/nowhere"):
        response = client.post(path, content=PNG, headers={"X-Request-Id": given})
        assert response.headers["x-request-id"] == given


@pytest.mark.parametrize("given", [None, "", "x" * 129, "a b", "a\tb", 'a"b', "{a}", "é", "a;b"])
def test_request_id_is_generated_if_absent_or_invalid(
    client: httpx.Client, given: str | None
) -> None:
    headers = {} if given is None else {b"X-Request-Id": given.encode("latin-1")}
    made = {
        client.post("/predict", content=PNG, headers=headers).headers["x-request-id"]
        for _ in range(2)
    }
    assert len(made) == 2
    assert all(MADE.fullmatch(name) for name in made)
