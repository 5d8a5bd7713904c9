"""Limits of gRPC connections, calls and messages that are not complete."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import psutil  # type: ignore[import-untyped]
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tritonclient.grpc import service_pb2_grpc

from service.oip.grpc import read_limits
from service.oip.grpc.messages import SERVICE
from tests.service.http.wire import serving
from tests.service.oip.http2 import Http2, message
from tests.service.oip.kit import free_port, rpc_message
from tests.serving_kit import bentoml_serve

SIZE = 1_000_000
HEALTH = "grpc.health.v1.Health"
REFLECTION = "grpc.reflection.v1.ServerReflection"
UNFINISHED = message(bytes(SIZE))[:-1]
# With them, three unfinished messages of calls are read at a time, and five of streams.
SMALL: dict[str, Any] = {"max_bytes": SIZE, "max_queued_bytes": 14 * SIZE, "timeout_s": 1}
_WINDOW = 65_535


@asynccontextmanager
async def port_of(zoo: Path, **settings: Any) -> AsyncIterator[int]:
    """Open the gRPC port of a service with `settings`."""
    port = free_port()
    async with serving(zoo, grpc_port=port, **settings) as service:
        while service.served.application._port.unready_reason:
            await asyncio.sleep(0.01)
        yield port


def infer(port: int) -> str:
    images_nhwc = np.zeros((1, 8, 8, 3), np.uint8)
    request = rpc_message(images_nhwc, raw_input_contents=[images_nhwc.tobytes()])
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        return str(stub.ModelInfer(request, timeout=10).model_name)


def run_until(client: Http2, condition: Callable[[], object], timeout_s: float = 10) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end
        client.run(0.05)


async def test_calls_at_a_time_on_one_connection_are_limited(zoo: Path) -> None:
    async with port_of(zoo) as port:
        client = Http2(port)
        await asyncio.to_thread(run_until, client, lambda: client.settings)
        assert client.max_streams == 100
        client.close()
    async with port_of(zoo, grpc_max_streams=7) as port:
        client = Http2(port)
        await asyncio.to_thread(run_until, client, lambda: client.settings)
        assert client.max_streams == 7
        client.close()


@pytest.mark.parametrize(
    ("service", "method"),
    [
        (SERVICE, "ModelInfer"),
        (SERVICE, "ModelStreamInfer"),
        (HEALTH, "Check"),
        (HEALTH, "Watch"),
        (REFLECTION, "ServerReflectionInfo"),
    ],
)
async def test_unfinished_messages_are_limited_and_then_reset(
    zoo: Path, service: str, method: str
) -> None:
    calls = 20
    async with port_of(zoo, grpc_reflection=True, grpc_idle_s=1, **SMALL) as port:
        client = Http2(port)
        for _ in range(calls):
            client.call(method, UNFINISHED, service=service)
        await asyncio.to_thread(run_until, client, lambda: len(client.ended) >= calls - 5)
        assert 3 <= calls - len(client.ended) <= 5
        started = time.monotonic()
        assert await asyncio.to_thread(infer, port) == "colours"
        assert time.monotonic() - started < 2
        await asyncio.to_thread(run_until, client, lambda: len(client.ended) == calls)
        client.close()


async def test_connection_with_most_unfinished_messages_loses_one(zoo: Path) -> None:
    async with port_of(zoo, **(SMALL | {"timeout_s": 60})) as port:
        greedy, modest = Http2(port), Http2(port)
        for client, calls in ((modest, 1), (greedy, 2), (greedy, 3)):
            for _ in range(calls):
                client.call("ModelInfer", UNFINISHED)
            await asyncio.to_thread(client.run, 0.4)
        await asyncio.to_thread(run_until, greedy, lambda: len(greedy.ended) == 3)
        await asyncio.to_thread(modest.run, 0.3)
        assert not modest.ended
        greedy.close()
        modest.close()


async def test_idle_stream_gives_its_place_to_another_one(
    zoo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with port_of(zoo, **SMALL) as port:
        client = Http2(port)
        streams = [client.call("ModelStreamInfer") for _ in range(5)]
        await asyncio.to_thread(client.run, 0.3)
        rejected = client.call("ModelStreamInfer")
        await asyncio.to_thread(run_until, client, lambda: client.ended)
        assert client.ended == {rejected}
        monkeypatch.setattr(read_limits, "_STREAM_PATIENCE_S", 0.1)
        accepted = client.call("ModelStreamInfer")
        await asyncio.to_thread(run_until, client, lambda: len(client.ended) == 2)
        assert client.ended == {rejected, streams[0]}
        await asyncio.to_thread(client.run, 0.2)
        assert accepted not in client.ended
        client.close()


async def test_message_that_arrives_in_parts_is_answered(zoo: Path) -> None:
    content = health_pb2.HealthCheckRequest(service="").SerializeToString()
    async with port_of(zoo, **SMALL) as port:
        client = Http2(port)
        stream = client.call("Check", message(content)[:3], service=HEALTH)
        await asyncio.to_thread(client.run, 0.2)
        client.send(stream, message(content)[3:])
        await asyncio.to_thread(run_until, client, lambda: client.ended)
        answer = health_pb2.HealthCheckResponse.FromString(client.bodies[stream][5:])
        assert answer.status == answer.SERVING
        client.close()


async def test_call_without_a_message_is_an_invalid_argument(zoo: Path) -> None:
    async with port_of(zoo) as port:

        def call() -> grpc.StatusCode:
            with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
                infer = channel.stream_unary(f"/{SERVICE}/ModelInfer")
                with pytest.raises(grpc.RpcError) as rejected:
                    infer(iter(()), timeout=10)
                code: grpc.StatusCode = rejected.value.code()
                return code

        assert await asyncio.to_thread(call) == grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("limit", ["grpc_idle_s", "grpc_connection_age_s"])
async def test_connection_is_closed_when_it_is_idle_or_old(zoo: Path, limit: str) -> None:
    async with port_of(zoo, **{limit: 1}) as port:
        client = Http2(port)
        await asyncio.to_thread(run_until, client, lambda: client.went_away or client.closed, 5)
        client.close()


async def test_client_that_does_not_answer_pings_is_disconnected(zoo: Path) -> None:
    async with port_of(zoo, grpc_keepalive_s=1, write_timeout_s=1) as port:
        client, silent = Http2(port), Http2(port)
        silent.answers_pings = False
        await asyncio.to_thread(run_until, silent, lambda: client.run(0.02) or silent.closed, 6)
        assert client.pings > 0
        assert not client.closed
        client.close()
        silent.close()


async def test_connection_that_says_nothing_is_closed(zoo: Path) -> None:
    async with port_of(zoo, head_timeout_s=0.5) as port:
        with socket.create_connection(("127.0.0.1", port), 5) as link:

            def read() -> bytes:
                return b"".join(iter(lambda: link.recv(1000), b""))

            await asyncio.wait_for(asyncio.to_thread(read), 5)


async def test_number_of_connections_is_limited(zoo: Path) -> None:
    async with port_of(zoo, max_connections=3) as port:
        clients = [Http2(port) for _ in range(6)]
        for client in clients:
            await asyncio.to_thread(client.run, 0.2)
        assert [client.closed for client in clients] == [False] * 3 + [True] * 3
        for client in clients:
            client.close()


def test_unfinished_messages_stay_within_the_upload_budget(zoo: Path, tmp_path: Path) -> None:
    """The upload budget has 256 MB; the messages have 600."""
    port, calls = free_port(), 60
    with bentoml_serve(
        zoo,
        tmp_path,
        LIMELIGHT_DEVICE="cpu",
        LIMELIGHT_WORKERS="1",
        LIMELIGHT_TIMEOUT_S="2",
        LIMELIGHT_GRPC_PORT=str(port),
    ) as server:
        while httpx.get(f"{server.url}/readyz").status_code != 200:
            time.sleep(0.05)  # HTTP is available a moment earlier than gRPC
        worker = max(
            psutil.Process(server.process.pid).children(recursive=True),
            key=lambda process: process.memory_info().rss,
        )
        client, before, most = Http2(port), worker.memory_info().rss, 0
        for _ in range(calls):
            client.call("ModelInfer", message(bytes(9_990_000))[:-1])
        end = time.monotonic() + 10
        while len(client.ended) < calls and time.monotonic() < end:
            client.run(0.1)
            most = max(most, worker.memory_info().rss - before)
        client.close()
        assert len(client.ended) == calls
        assert most < 256_000_000
        assert infer(port) == "colours"
    assert "Traceback" not in server.log()


def test_health_is_watched_through_bounded_reading(grpc_address: str, remote: Any) -> None:
    with grpc.insecure_channel(grpc_address) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        watch.cancel()
