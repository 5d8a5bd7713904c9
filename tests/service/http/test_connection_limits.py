"""Time limits of a connection, unread responses, and the number of connections."""

import asyncio
import time
from pathlib import Path

from tests.service.http.listening import until
from tests.service.http.wire import Service, Wire, serving
from tests.service.test_app import PNG

HEAD = b"Host: a\r\nContent-Length: %d\r\n\r\n" % len(PNG)
PREDICT = b"POST /predict HTTP/1.1\r\n" + HEAD
GET = b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n"
LARGE = 8_000_000


async def test_idle_connection_is_closed_without_a_word(zoo: Path) -> None:
    async with serving(zoo, keep_alive_s=0.6, head_timeout_s=0.2) as service:
        wire = await service.connect()
        for _ in range(3):  # each request starts the time again
            wire.send(GET)
            assert (await wire.answer()).status == 200
            await asyncio.sleep(0.4)
        assert await wire.closed(2)


async def test_connection_without_a_request_is_closed(zoo: Path) -> None:
    async with serving(zoo, keep_alive_s=60, head_timeout_s=0.2) as service:
        silent, blank = await service.connect(), await service.connect()
        blank.send(b"\r\n" * 10)
        assert await silent.closed(2)
        assert await blank.closed(2)


async def test_head_that_trickles_is_rejected(zoo: Path) -> None:
    async with serving(zoo, keep_alive_s=60, head_timeout_s=0.4) as service:
        for before in (b"", GET):
            wire = await service.connect()
            if before:
                wire.send(before)
                assert (await wire.answer()).status == 200
            wire.send(b"GET /livez HTTP/1.1\r\n")
            answering = asyncio.create_task(wire.answer())
            for _ in range(100):
                wire.send(b"X: a\r\n")
                await asyncio.sleep(0.02)
                if answering.done():
                    break
            answer = answering.result()
            assert (answer.status, answer.problem()["code"]) == (408, "request_timeout")
            assert await wire.closed()


async def test_body_that_trickles_after_its_response_is_discarded_for_a_time(zoo: Path) -> None:
    async with serving(zoo, linger_s=0.4, max_bytes=1000) as service:
        wire = await service.connect()
        wire.send(b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: 5000\r\n\r\n")
        assert (await wire.answer()).status == 413
        wire.send(bytes(5000), GET)  # the rest arrives in time
        assert (await wire.answer()).status == 200
        wire.send(b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: 5000\r\n\r\n")
        assert (await wire.answer()).status == 413
        closing = asyncio.create_task(wire.closed(5))
        while not closing.done():
            wire.send(b"a")
            await asyncio.sleep(0.02)
        assert closing.result()
        await until(lambda: not service.connections)


async def test_client_that_does_not_read_its_response_is_dropped(zoo: Path) -> None:
    async with serving(zoo, write_timeout_s=0.3) as service:
        service.serve("/large", bytes(LARGE))
        wire = await service.connect(receive_bytes=4096)
        wire.send(GET.replace(b"/livez", b"/large"))
        await until(lambda: service.connections and service.connections[0].unsent_bytes)
        await until(lambda: not service.connections, 3)


async def test_client_that_reads_slowly_is_not_dropped(zoo: Path) -> None:
    limit_s = 0.8
    async with serving(zoo, write_timeout_s=limit_s) as service:
        service.serve("/large", bytes(LARGE))
        wire = await service.connect(receive_bytes=65_536)
        started, read = time.monotonic(), 0
        wire.send(GET.replace(b"/livez", b"/large"))
        while read < LARGE:
            part = await wire.read(65_536)
            assert part, f"closed after {read} bytes"
            read += len(part)
            # So that the whole response takes twice the time limit.
            due = started + 2 * limit_s * read / LARGE
            await asyncio.sleep(max(0.0, due - time.monotonic()))
        assert time.monotonic() - started > 1.9 * limit_s


async def test_unread_responses_of_all_clients_are_limited(zoo: Path) -> None:
    async with serving(zoo, max_unsent_bytes=1_000_000) as service:
        service.serve("/large", bytes(LARGE))
        first, second = await service.connect(receive_bytes=4096), None
        first.send(GET.replace(b"/livez", b"/large"))
        await until(lambda: service.connections and service.connections[0].unsent_bytes)
        (slowest,) = service.connections
        await asyncio.sleep(0.5)
        second = await service.connect(receive_bytes=4096)
        second.send(GET.replace(b"/livez", b"/large"))
        await until(lambda: slowest not in service.connections, 3)
        (other,) = service.connections
        assert other.unsent_bytes > 0
        assert (await second.read(12)) == b"HTTP/1.1 200"


async def busy(service: Service) -> Wire:
    """Connect, and begin an upload whose rest does not arrive yet."""
    wire = await service.connect()
    wire.send(PREDICT)
    await until(lambda: sum(one.is_answering() for one in service.connections))
    return wire


async def test_connection_that_is_idle_for_longest_makes_room(zoo: Path) -> None:
    async with serving(zoo, max_connections=4) as service:
        upload = await busy(service)
        wires = []
        for number in range(3):
            wires.append(await service.connect())
            wires[-1].send(GET if number else b"GET /livez HTTP/1.1\r\n")
            if number:
                assert (await wires[-1].answer()).status == 200
        for oldest in wires:
            new = await service.connect()
            new.send(GET)
            assert (await new.answer()).status == 200
            assert await oldest.closed(2)
        assert len(service.connections) == 4
        upload.send(PNG)
        assert (await upload.answer()).status == 200


async def test_connection_over_the_limit_is_rejected_except_for_health(zoo: Path) -> None:
    async with serving(zoo, max_connections=2) as service:
        uploads = [await busy(service), await busy(service)]
        for _ in range(20):
            wire = await service.connect()
            wire.send(PREDICT.replace(b"Host: a", b"X-Request-Id: mine"), PNG)
            answer = await wire.answer()
            assert (answer.status, answer.problem()["code"]) == (503, "overloaded")
            assert answer.headers["retry-after"] == "1"
            assert answer.headers["x-request-id"] == "mine"
            assert answer.headers["connection"] == "close"
            assert await wire.closed()
        for path in (b"/livez", b"/readyz", b"/healthz", b"/v2/health/live", b"/v2/health/ready"):
            wire = await service.connect()
            wire.send(GET.replace(b"/livez", path))
            answer = await wire.answer()
            assert (answer.status, answer.headers["connection"]) == (200, "close")
            assert await wire.closed()
        silent = [await service.connect() for _ in range(30)]
        wire = await service.connect()
        wire.send(GET)
        assert (await wire.answer()).status == 200
        assert await silent[0].closed(2)
        assert len(service.connections) <= 10
        for upload in uploads:
            upload.send(PNG)
            assert (await upload.answer()).status == 200
        assert len(silent) == 30
