"""Limits of heads, trailers and pipelined requests; requests of the server's own answers."""

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from service.http import messages, parameters
from tests.service.http.wire import Service, serving
from tests.service.test_app import PNG

LENGTH = b"Content-Length: %d\r\n" % len(PNG)
POST = b"POST /predict HTTP/1.1\r\nHost: a\r\n"
GET = b"GET /livez HTTP/1.1\r\nHost: a\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
CHUNK = b"%x\r\n%b\r\n" % (len(PNG), PNG)


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service(zoo: Path) -> AsyncIterator[Service]:
    async with serving(zoo) as service:
        yield service


@pytest.mark.parametrize(
    "part",
    [
        b"GET /livez?" + b"a" * 40_000,
        GET + b"X: " + b"a" * 40_000,
        GET + b"X" * 40_000,
        GET + b"X: a\r\n" * 8_000,
    ],
    ids=["target", "value", "name", "fields"],
)
@pytest.mark.parametrize("end", [b"", b"\r\n\r\n"])
async def test_head_over_the_limit_is_rejected_before_it_is_complete(
    service: Service, part: bytes, end: bytes
) -> None:
    wire = await service.connect()
    for start in range(0, len(part), 1000):
        wire.send(part[start : start + 1000])
        await wire.drain()
    wire.send(end)
    answer = await wire.answer()
    assert (answer.status, answer.problem()["code"]) == (431, "head_too_large")
    assert answer.headers["connection"] == "close"
    assert await wire.closed()


async def test_rejected_heads_are_counted(zoo: Path) -> None:
    async with serving(zoo, max_head_fields=1) as service:
        wire = await service.connect()
        wire.send(GET, b"X: a\r\n\r\n")
        assert (await wire.answer()).status == 431
        text = (await service.served.http.get("/metrics")).text
    assert 'limelight_rejected_total{reason="head_too_large"} 1.0' in text
    assert 'limelight_requests_total{code="431",model="none",route="other"' in text


async def test_head_and_fields_at_the_limit_are_accepted(service: Service) -> None:
    wire = await service.connect()
    ending = b"\r\n\r\n"
    size = 32_768
    head = GET + b"X: " + b"a" * (size - len(GET) - 3 - len(ending)) + ending
    wire.send(head)
    assert (await wire.answer()).status == 200
    wire.send(head.replace(b"X: ", b"X: a"))
    assert (await wire.answer()).status == 431
    wire = await service.connect()
    wire.send(GET, b"X: a\r\n" * 99, b"\r\n")
    assert (await wire.answer()).status == 200
    wire.send(GET, b"X: a\r\n" * 100, b"\r\n")
    assert (await wire.answer()).status == 431


async def test_limits_of_heads_are_settings(zoo: Path) -> None:
    async with serving(zoo, max_head_bytes=2000, max_head_fields=5) as service:
        for fields, status in (
            (b"", 200),
            (b"X: a\r\n" * 4, 200),
            (b"X: a\r\n" * 5, 431),
            (b"X: " + b"a" * 2000 + b"\r\n", 431),
        ):
            wire = await service.connect()
            wire.send(GET, fields, b"\r\n")
            assert (await wire.answer()).status == status


async def test_trailers_are_ignored(service: Service) -> None:
    wire = await service.connect()
    trailers = b"X-Request-Id: trailer\r\nContent-Type: text/plain\r\nX-Timeout-Ms: x\r\n"
    wire.send(POST, CHUNKED, b"X-Request-Id: head\r\n\r\n", CHUNK, b"0\r\n", trailers, b"\r\n")
    answer = await wire.answer()
    assert (answer.status, answer.headers["x-request-id"]) == (200, "head")
    # Requests that wait for no image read their headers after the body has arrived.
    wire.send(GET, CHUNKED, b"X-Request-Id: head\r\n\r\n", CHUNK, b"0\r\n", trailers, b"\r\n")
    answer = await wire.answer()
    assert (answer.status, answer.headers["x-request-id"]) == (200, "head")
    wire.send(GET, b"\r\n")
    assert (await wire.answer()).status == 200


async def test_trailers_over_the_limit_are_rejected(service: Service) -> None:
    for trailer in (b"X: " + b"a" * 70_000, b"X: a\r\n" * 12_000):
        wire = await service.connect()
        wire.send(POST, CHUNKED, b"\r\n", CHUNK, b"0\r\n")
        for start in range(0, len(trailer), 5000):
            wire.send(trailer[start : start + 5000])
            await wire.drain()
        answer = await wire.answer()
        assert (answer.status, answer.problem()["code"]) == (431, "head_too_large")
        assert await wire.closed()


async def test_chunks_with_hardly_any_content_are_rejected(service: Service) -> None:
    for piece in (b"1\r\na\r\n", b"8;" + b"x" * 60 + b"\r\naaaaaaaa\r\n"):
        wire = await service.connect()
        wire.send(POST, CHUNKED, b"\r\n", piece * 20_000)
        assert (await wire.answer()).status == 431
    wire = await service.connect()
    pieces = [
        b"%x\r\n%b\r\n" % (len(PNG[at : at + 8]), PNG[at : at + 8]) for at in range(0, len(PNG), 8)
    ]
    wire.send(POST, CHUNKED, b"\r\n", *pieces, b"0\r\n\r\n")
    assert (await wire.answer()).status == 200


async def test_pipelined_requests_are_read_only_as_they_are_answered(zoo: Path) -> None:
    async with serving(zoo, max_pipelined=4) as service:
        service.serve("/large", bytes(100_000))
        wire = await service.connect(receive_bytes=4096)
        number, ids = 300, []
        for at in range(number):
            wire.send(b"GET /large HTTP/1.1\r\nHost: a\r\nX-Request-Id: %d\r\n\r\n" % at)
        wire.send(POST, LENGTH, b"\r\n", PNG)
        await asyncio.sleep(0.1)
        (connection,) = service.connections
        assert len(connection.pipeline) <= 4
        assert connection.unsent_bytes < 500_000
        for _ in range(number):
            answer = await wire.answer()
            assert answer.status == 200
            ids.append(int(answer.headers["x-request-id"]))
            assert len(connection.pipeline) <= 4
        assert ids == list(range(number))
        assert b'"label"' in (await wire.answer()).body


@pytest.mark.parametrize("size", [1, 7, 100_000])
async def test_requests_in_pieces_of_any_size_are_answered_in_order(
    service: Service, size: int
) -> None:
    wire = await service.connect()
    requests = b"".join(
        (
            *(POST, LENGTH, b"\r\n", PNG, GET, b"\r\n\r\n"),
            *(POST, CHUNKED, b"\r\n", CHUNK, b"0\r\nX: a\r\n\r\n", GET, b"\r\n"),
            *(POST, b"Content-Length: 0\r\n\r\n", GET, b"Content-Length: 2\r\n\r\nab"),
        )
    )
    for start in range(0, len(requests), size):
        wire.send(requests[start : start + size])
        await wire.drain()
        if size < 10:
            await asyncio.sleep(0)
    statuses = [(await wire.answer()).status for _ in range(6)]
    assert statuses == [200, 200, 200, 200, 400, 200]


async def test_body_in_front_of_a_head_does_not_count_as_its_head(service: Service) -> None:
    wire = await service.connect()
    first = GET + b"Content-Length: 30000\r\n\r\n" + bytes(30_000)
    wire.send(first, GET[:30])
    assert (await wire.answer()).status == 200
    wire.send(GET[30:], b"X: " + b"a" * 10_000 + b"\r\n\r\n")
    assert (await wire.answer()).status == 200


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost a\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"GET http://[ HTTP/1.1\r\n\r\n",
        POST + b"Content-Length: x\r\n\r\n",
        POST + CHUNKED + b"\r\nx\r\n",
    ],
)
async def test_malformed_request_is_a_problem_with_a_request_id(
    service: Service, request_bytes: bytes
) -> None:
    wire = await service.connect()
    wire.send(request_bytes)
    answer = await wire.answer()
    assert (answer.status, answer.problem()["code"]) == (400, "malformed_request")
    assert re.fullmatch("[0-9a-f]{32}", answer.headers["x-request-id"])
    assert answer.headers["connection"] == "close"
    assert await wire.closed()


async def test_malformed_request_is_answered_after_the_requests_before_it(
    service: Service,
) -> None:
    wire = await service.connect()
    wire.send(POST, LENGTH, b"X-Request-Id: first\r\n\r\n", PNG)
    wire.send(POST, LENGTH, b"X-Request-Id: second\r\n\r\n", PNG)
    wire.send(b"GET /livez HTTP/1.1\r\nX-Request-Id: third\r\nHost: a\r\nwrong\r\n\r\n")
    answers = [await wire.answer() for _ in range(3)]
    assert [answer.status for answer in answers] == [200, 200, 400]
    assert [answer.headers["x-request-id"] for answer in answers] == ["first", "second", "third"]
    assert await wire.closed()


@pytest.mark.parametrize("body", [LENGTH + b"\r\n" + PNG, CHUNKED + b"\r\n" + CHUNK + b"0\r\n\r\n"])
@pytest.mark.parametrize("size", [1, 100_000])
async def test_offer_of_another_protocol_is_ignored(
    service: Service, body: bytes, size: int
) -> None:
    offer = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAABAA\r\n"
    wire = await service.connect()
    plain = GET + offer + b"\r\n"
    requests = (POST + offer + body) * 2 + plain + plain.replace(b"h2c", b"websocket")
    for start in range(0, len(requests), size):
        wire.send(requests[start : start + size])
        await wire.drain()
    answers = [await wire.answer() for _ in range(4)]
    assert [answer.status for answer in answers] == [200] * 4
    assert b'"label"' in answers[0].body
    assert answers[0].body == answers[1].body
    wire.send(POST, LENGTH, b"\r\n", PNG)
    assert (await wire.answer()).body == answers[0].body


@pytest.mark.parametrize("before", [b"", GET + b"\r\n"])
async def test_length_of_thousands_of_digits_is_malformed(service: Service, before: bytes) -> None:
    """Python refuses to read more than 4,300 digits."""
    wire = await service.connect()
    if before:
        wire.send(before)
        assert (await wire.answer()).status == 200
    wire.send(POST, b"Content-Length: %b1\r\n\r\n" % (b"0" * 4_400), b"x")
    answer = await wire.answer()
    assert (answer.status, answer.problem()["code"]) == (400, "malformed_request")
    assert await wire.closed()


async def test_caches_do_not_keep_long_texts_of_clients(service: Service) -> None:
    http = service.served.http
    caches = messages._cached_query, parameters._cached_preference
    for cache in caches:
        cache.cache_clear()
    for number in range(5):
        text = f"image/png;{number}" + "a" * 1000
        named = await http.post(f"/explain?target={text}", content=PNG)
        assert named.json()["code"] == "unknown_target"
        picture = await http.post("/explain", content=PNG, headers={"Accept": text})
        assert picture.headers["content-type"] == "image/png"
    assert [cache.cache_info().currsize for cache in caches] == [1, 1]  # no query, */*
    await http.post("/explain?top_k=2", content=PNG, headers={"Accept": "image/png"})
    assert [cache.cache_info().currsize for cache in caches] == [2, 2]
