"""Fixtures of the protocol's tests: a server with gRPC, and clients of it."""

import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
import tritonclient.grpc as triton
from tritonclient.grpc import service_pb2_grpc
from tritonclient.utils import InferenceServerException

from service.settings import Settings
from tests.service.oip.kit import free_port
from tests.service.test_app import Served
from tests.serving_kit import Server, bentoml_serve


@pytest.fixture(scope="session")
def grpc_address() -> str:
    return f"127.0.0.1:{free_port()}"


@pytest.fixture(scope="session")
def server(
    zoo: Path, grpc_address: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """Start a server with two workers, so that statistics must be summed over both."""
    folder = tmp_path_factory.mktemp("server")
    with bentoml_serve(
        zoo,
        folder,
        LIMELIGHT_DEVICE="cpu",
        LIMELIGHT_GRPC_PORT=grpc_address.rpartition(":")[2],
        LIMELIGHT_MAX_BYTES="1000000",
        LIMELIGHT_WORKERS="2",
    ) as server:
        yield server


@pytest.fixture(scope="session")
def client(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=30) as client:
        yield client


@pytest.fixture
async def served(zoo: Path) -> AsyncIterator[Served]:
    settings = Settings(
        models=zoo, default_model="colours", device="cpu", max_bytes=300_000, max_batch=8
    )
    async with Served(settings) as served:
        yield served


@pytest.fixture
async def http(served: Served) -> httpx.AsyncClient:
    return served.http


@pytest.fixture(scope="session")
def remote(server: Server, grpc_address: str) -> Iterator[Any]:
    with triton.InferenceServerClient(grpc_address) as remote:
        for _ in range(100):  # HTTP is available a moment earlier than gRPC
            try:
                if remote.is_server_ready():
                    break
            except InferenceServerException:
                time.sleep(0.1)
        yield remote


@pytest.fixture(scope="session")
def stub(remote: Any, grpc_address: str) -> Iterator[Any]:
    with grpc.insecure_channel(grpc_address) as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)
