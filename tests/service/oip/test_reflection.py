"""Server reflection on the gRPC port: off by default, and complete if it is on."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2
from google.protobuf.descriptor_pool import DescriptorPool

from service.oip.grpc.messages import METHODS, SERVICE
from tests.service.oip.kit import free_port
from tests.serving_kit import REPOSITORY, bentoml_serve

reflection_pb2 = pytest.importorskip(
    "grpc_reflection.v1alpha.reflection_pb2", reason="needs grpcio-reflection, of the extra grpc"
)
VERSIONS = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")
Request = reflection_pb2.ServerReflectionRequest


def ask(channel: Any, service: str, *requests: Any) -> list[Any]:
    """Send requests in one stream, and return the responses."""
    call = channel.stream_stream(
        f"/{service}/ServerReflectionInfo",
        Request.SerializeToString,
        reflection_pb2.ServerReflectionResponse.FromString,
    )
    return list(call(iter(requests), timeout=10, wait_for_ready=True))


@pytest.fixture(scope="module")
def reflecting(zoo: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    port = free_port()
    with (
        bentoml_serve(
            zoo,
            tmp_path_factory.mktemp("reflecting"),
            LIMELIGHT_WORKERS="1",
            LIMELIGHT_GRPC_PORT=str(port),
            LIMELIGHT_GRPC_REFLECTION="true",
        ),
        grpc.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        yield channel


@pytest.mark.parametrize("version", VERSIONS)
def test_services_are_listed_and_each_can_be_described(reflecting: Any, version: str) -> None:
    (listed,) = ask(reflecting, version, Request(list_services=""))
    names = {service.name for service in listed.list_services_response.service}
    assert names == {SERVICE, "grpc.health.v1.Health", *VERSIONS}
    # Build everything from the answers alone, as a client without .proto files does.
    pool = DescriptorPool()
    described = sorted(names - {VERSIONS[0]})  # version 1 has the messages of v1alpha
    for answer in ask(
        reflecting, version, *(Request(file_containing_symbol=name) for name in described)
    ):
        for content in answer.file_descriptor_response.file_descriptor_proto:
            pool.Add(descriptor_pb2.FileDescriptorProto.FromString(content))
    found = pool.FindServiceByName(SERVICE)
    assert {method.name for method in found.methods} == set(METHODS)
    assert pool.FindMessageTypeByName("inference.ModelInferRequest").fields_by_name["model_name"]


def test_unknown_symbol_is_an_error_in_the_answer(reflecting: Any) -> None:
    (answer,) = ask(reflecting, VERSIONS[0], Request(file_containing_symbol="a.b"))
    assert answer.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]


@pytest.mark.parametrize("version", VERSIONS)
def test_reflection_is_off_by_default(stub: Any, grpc_address: str, version: str) -> None:
    with grpc.insecure_channel(grpc_address) as channel, pytest.raises(grpc.RpcError) as missing:
        ask(channel, version, Request(list_services=""))
    assert missing.value.code() == grpc.StatusCode.UNIMPLEMENTED


def test_missing_package_names_the_extra() -> None:
    code = "import sys; sys.modules['grpc_reflection'] = None; import service.bento"
    environment = os.environ | {
        "LIMELIGHT_GRPC_PORT": "8001",
        "LIMELIGHT_GRPC_REFLECTION": "true",
    }
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=REPOSITORY,
        env=environment,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "pip install 'limelight[grpc]'" in done.stderr
