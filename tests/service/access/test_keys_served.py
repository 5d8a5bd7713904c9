"""Keys of a real `bentoml serve` with two workers: rotation, gRPC, logs and metrics."""

import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from prometheus_client.parser import text_string_to_metric_families
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

from limelight.api_keys import hash_key
from limelight.client import Client, RefusedError
from service.openapi.document import document
from service.settings import Settings
from tests.service.access.kit import KEYS, bearer, keys_text, replace
from tests.service.oip.kit import free_port, rpc_message
from tests.service.telemetry.scraping import let_workers_count
from tests.serving_kit import Server, bentoml_serve, colour_image, encode

PNG = encode(colour_image(np.random.default_rng(3)))
NEW = "ll_" + "n" * 43
PIXELS = np.zeros((1, 8, 8, 3), np.uint8)


@pytest.fixture(scope="module")
def keys_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("keys") / "keys.toml"
    file.write_text(keys_text())
    return file


@pytest.fixture(scope="module")
def address() -> str:
    return f"127.0.0.1:{free_port()}"


@pytest.fixture(scope="module")
def locked(
    zoo: Path, keys_file: Path, address: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    with bentoml_serve(
        zoo,
        tmp_path_factory.mktemp("locked"),
        LIMELIGHT_KEYS_FILE=str(keys_file),
        LIMELIGHT_GRPC_PORT=address.rpartition(":")[2],
        LIMELIGHT_GRPC_REFLECTION="true",
        LIMELIGHT_WORKERS="2",
        LIMELIGHT_ACCESS_LOG="true",
        LIMELIGHT_LOG_FORMAT="json",
    ) as server:
        yield server


@pytest.fixture
def stub(locked: Server, address: str) -> Iterator[Any]:
    with grpc.insecure_channel(address) as channel:
        grpc.channel_ready_future(channel).result(timeout=20)
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)


def statuses(server: Server, path: str, headers: dict[str, str], number: int = 16) -> set[int]:
    """Return the statuses of requests over connections of their own, so that all workers answer."""

    method, content = ("POST", PNG) if path in ("/predict", "/explain") else ("GET", None)

    def ask(_: int) -> int:
        connection = HTTPConnection(server.url.removeprefix("http://"), timeout=20)
        try:
            connection.request(method, path, content, headers)
            response = connection.getresponse()
            response.read()
            return response.status
        finally:
            connection.close()

    with ThreadPoolExecutor(8) as pool:
        return set(pool.map(ask, range(number)))


def wait_for(condition: Callable[[], bool], timeout_s: float = 10) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def code_of(call: Callable[[], Any]) -> grpc.StatusCode:
    with pytest.raises(grpc.RpcError) as refused:
        call()
    code: grpc.StatusCode = refused.value.code()
    return code


def infer_message() -> Any:
    message = rpc_message(PIXELS)
    message.outputs.add(name="probabilities")
    message.raw_input_contents.append(PIXELS.tobytes())
    return message


def metadata(name: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {KEYS[name]}"),)


def test_all_workers_ask_for_a_key_on_every_route(locked: Server) -> None:
    for path, item in document(Settings())["paths"].items():
        expected = 200 if path in ("/livez", "/readyz", "/", "/docs") else 401
        if "get" in item:
            found = statuses(locked, path.format(name="colours", version="1"), {}, 4)
            assert found == {expected}, path
    assert statuses(locked, "/predict", {}) == {401}
    assert statuses(locked, "/predict", bearer("shop")) == {200}
    assert statuses(locked, "/explain", bearer("shop")) == {403}
    assert statuses(locked, "/explain", bearer("maps")) == {200}
    assert statuses(locked, "/metrics", bearer("maps")) == {403}


def test_upload_without_a_key_is_refused_before_it_is_sent(locked: Server) -> None:
    """The client waits for the answer to its head, which says that it may go on."""
    host, port = locked.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as wire:
        wire.sendall(
            b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n"
            b"Expect: 100-continue\r\n\r\n"
        )
        assert wire.recv(4096).startswith(b"HTTP/1.1 401 ")


def test_client_and_command_line_take_a_key(
    locked: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Client(locked.url, api_key=KEYS["maps"]) as client:
        assert client.explain(PNG).cam.method == "cam"
    with Client(locked.url, retries=0) as client, pytest.raises(RefusedError) as refused:
        client.predict(PNG)
    assert (refused.value.status, refused.value.code) == (401, "unauthenticated")
    monkeypatch.setenv("LIMELIGHT_API_KEY", KEYS["shop"])
    with Client(locked.url) as client:
        assert client.predict(PNG).model == "colours"
    (tmp_path / "image.png").write_bytes(PNG)
    command = [sys.executable, "-m", "pipeline", "predict", "image.png", "--url", locked.url]
    for extra, status in (((), 0), (("--api-key", "wrong-key"), 1)):
        done = subprocess.run(
            [*command, *extra], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == status, done.stderr


def test_grpc_asks_for_a_key_and_its_scopes(stub: Any) -> None:
    message = infer_message()
    assert code_of(lambda: stub.ModelInfer(message)) is grpc.StatusCode.UNAUTHENTICATED
    wrong = (("x-api-key", "wrong-key"),)
    with pytest.raises(grpc.RpcError) as refused:
        stub.ModelInfer(message, metadata=wrong)
    assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert 'error="invalid_token"' in dict(refused.value.trailing_metadata())["www-authenticate"]
    assert stub.ModelInfer(message, metadata=metadata("shop")).model_name == "colours"
    assert stub.ModelInfer(message, metadata=(("x-api-key", KEYS["shop"]),)).model_version == "1"
    message.outputs.add(name="cams")
    for name, denied in (("shop", True), ("scraper", True), ("maps", False)):
        if denied:
            call = lambda name=name: stub.ModelInfer(message, metadata=metadata(name))  # noqa: E731
            assert code_of(call) is grpc.StatusCode.PERMISSION_DENIED
        else:
            stub.ModelInfer(message, metadata=metadata(name))
    statistics = service_pb2.ModelStatisticsRequest()
    assert (
        code_of(lambda: stub.ModelStatistics(statistics, metadata=metadata("shop")))
        is grpc.StatusCode.PERMISSION_DENIED
    )
    stub.ModelStatistics(statistics, metadata=metadata("scraper"))
    assert (
        code_of(lambda: stub.ServerLive(service_pb2.ServerLiveRequest()))
        is grpc.StatusCode.UNAUTHENTICATED
    )


def test_grpc_streams_and_reflection_ask_for_a_key_and_health_does_not(
    locked: Server, address: str
) -> None:
    with grpc.insecure_channel(address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        answer = health.Check(health_pb2.HealthCheckRequest())
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        stream = stub.ModelStreamInfer(iter([infer_message()]))
        assert code_of(lambda: next(stream)) is grpc.StatusCode.UNAUTHENTICATED
        messages = iter([infer_message()] * 3)
        answers = list(stub.ModelStreamInfer(messages, metadata=metadata("shop")))
        assert [each.error_message for each in answers] == [""] * 3
        reflection = reflection_pb2_grpc.ServerReflectionStub(channel)
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        refused = reflection.ServerReflectionInfo(iter([request]))
        assert code_of(lambda: next(refused)) is grpc.StatusCode.UNAUTHENTICATED
        given = reflection.ServerReflectionInfo(iter([request]), metadata=metadata("shop"))
        assert next(given).list_services_response.service


def test_clients_of_triton_send_the_key_as_a_header(locked: Server, address: str) -> None:
    with triton.InferenceServerClient(address) as client:
        headers = {"authorization": f"Bearer {KEYS['shop']}"}
        assert client.is_server_ready(headers=headers)
        assert client.get_model_metadata("colours", headers=headers).name == "colours"
        with pytest.raises(InferenceServerException, match="asks for an API key"):
            client.get_model_metadata("colours")


def test_name_of_the_key_is_in_the_log_and_the_metrics_and_the_key_is_not(locked: Server) -> None:
    httpx.post(f"{locked.url}/predict", content=PNG, headers=bearer("shop") | {"X-Request-Id": "k"})
    let_workers_count()
    lines = [json.loads(line) for line in locked.log().splitlines() if line.startswith("{")]
    (line,) = [line for line in lines if line.get("request_id") == "k"]
    assert (line["key"], line["status"], line["route"]) == ("shop", 200, "/predict")
    refused = [line for line in lines if line.get("status") == 401]
    assert refused
    assert all("key" not in line for line in refused)
    assert any(line["route"].endswith("/ModelInfer") for line in refused)
    denied = [line for line in lines if line.get("status") == 403]
    assert {line["key"] for line in denied} >= {"shop", "scraper"}
    text = httpx.get(f"{locked.url}/metrics", headers=bearer("scraper"), timeout=20).text
    found = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert found["limelight_key_requests_total", "200", "shop"] >= 16
    assert found["limelight_key_requests_total", "403", "shop"] >= 16
    assert found["limelight_rejected_total", "unauthenticated"] >= 16
    assert found["limelight_keys",] == len(KEYS)
    assert found["limelight_keys_file_broken",] == 0
    names = {key[2] for key in found if key[0] == "limelight_key_requests_total"}
    assert names <= set(KEYS)
    for secret in KEYS.values():
        assert secret not in text
        assert secret not in locked.log()


def test_keys_rotate_in_all_workers_while_requests_and_a_stream_go_on(
    locked: Server, keys_file: Path, stub: Any
) -> None:
    old, new = bearer("shop"), {"X-Api-Key": NEW}

    def stream() -> Iterator[Any]:
        yield infer_message()
        wait_for(lambda: statuses(locked, "/predict", old) == {401}, 30)
        yield infer_message()

    answers = stub.ModelStreamInfer(stream(), metadata=metadata("shop"))
    assert next(answers).error_message == ""
    both = keys_text().replace('hashes = ["', 'hashes = ["' + hash_key(NEW) + '", "', 1)
    replace(keys_file, both)
    wait_for(lambda: statuses(locked, "/predict", new) == {200})
    assert statuses(locked, "/predict", old) == {200}
    replace(keys_file, "not = [valid")
    wait_for(lambda: "not used, and the keys before it stay valid" in locked.log())
    let_workers_count()
    text = httpx.get(f"{locked.url}/metrics", headers=bearer("scraper"), timeout=20).text
    assert "limelight_keys_file_broken 1.0" in text
    assert statuses(locked, "/predict", new) == statuses(locked, "/predict", old) == {200}
    replace(keys_file, keys_text(**(KEYS | {"shop": NEW})))
    # An open stream is no way around a key that was taken back, and ends.
    with pytest.raises(grpc.RpcError) as ended:
        next(answers)
    assert ended.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert "API key is not valid" in ended.value.details()
    assert statuses(locked, "/predict", new) == {200}


def test_rate_of_a_key_holds_over_grpc_and_for_each_message_of_a_stream(
    locked: Server, keys_file: Path, stub: Any
) -> None:
    limited = keys_text(maps=KEYS["maps"], shop=KEYS["shop"], more="rate = 0.01\nburst = 4\n")
    replace(keys_file, limited)
    wait_for(lambda: statuses(locked, "/predict", {"X-Api-Key": NEW}) == {401})
    # One connection, and so one worker, which has half of the burst.
    stream = stub.ModelStreamInfer(iter([infer_message()] * 4), metadata=metadata("shop"))
    errors = [answer.error_message for answer in stream]
    assert errors[:2] == ["", ""]
    assert all("may send 0.01 requests per second" in error for error in errors[2:])
    with pytest.raises(grpc.RpcError) as refused:
        stub.ModelInfer(infer_message(), metadata=metadata("shop"))
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert int(dict(refused.value.trailing_metadata())["retry-after"]) > 90
    stub.ModelInfer(infer_message(), metadata=metadata("maps"))


def test_service_with_a_broken_file_does_not_start(tmp_path: Path, zoo: Path) -> None:
    (tmp_path / "keys.toml").write_text("keys = []")
    with (
        pytest.raises(RuntimeError) as failed,
        bentoml_serve(zoo, tmp_path, LIMELIGHT_KEYS_FILE=str(tmp_path / "keys.toml")),
    ):
        raise AssertionError
    assert "limelight: LIMELIGHT_KEYS_FILE is '" in str(failed.value)
    assert "at least 1 item" in str(failed.value)
