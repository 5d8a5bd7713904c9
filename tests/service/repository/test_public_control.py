"""Loading and unloading of models over the public ports, with a key of the scope admin."""

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
import tritonclient.grpc
import tritonclient.http
from tritonclient.utils import InferenceServerException

from tests.service.access.kit import bearer, keys_text
from tests.service.oip.kit import free_port
from tests.serving_kit import Server, bentoml_serve, write_artifact

LOAD, UNLOAD = (f"/v2/repository/models/other/{action}" for action in ("load", "unload"))


@dataclass(frozen=True)
class Running:
    server: Server
    http: Any
    grpc: Any

    def ready(self) -> set[str]:
        """Ask on new connections, so that every worker answers; return who serves `other`."""
        statuses = {
            httpx.get(f"{self.server.url}/models/other", headers=bearer("shop"), timeout=10)
            for _ in range(12)
        }
        return {str(answer.status_code) for answer in statuses}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("public")
    for name in ("colours", "other"):
        write_artifact(folder / "zoo", name=name)
    (folder / "keys.toml").write_text(keys_text())
    port = free_port()
    with (
        bentoml_serve(
            folder / "zoo",
            folder / "serve",
            LIMELIGHT_WORKERS="2",
            LIMELIGHT_KEYS_FILE=str(folder / "keys.toml"),
            LIMELIGHT_GRPC_PORT=str(port),
            LIMELIGHT_TIMEOUT_S="2",
        ) as server,
        tritonclient.http.InferenceServerClient(
            server.url.removeprefix("http://"), network_timeout=60
        ) as http,
        tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{port}") as grpc,
    ):
        yield Running(server, http, grpc)


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_tritons_clients_unload_and_load_in_all_workers(running: Running, protocol: str) -> None:
    client, headers = getattr(running, protocol), bearer("chief")
    if protocol == "grpc":  # metadata has lower-case names
        headers = {name.lower(): value for name, value in headers.items()}
    assert running.ready() == {"200"}
    client.unload_model("other", headers=headers)
    assert running.ready() == {"404"}
    index = client.get_model_repository_index(headers=headers)
    if protocol == "grpc":
        index = [{"name": each.name, "state": each.state} for each in index.models]
    states = {each["name"]: each["state"] for each in index}
    assert states == {"colours": "READY", "other": "UNAVAILABLE"}
    client.load_model("other", headers=headers)
    assert running.ready() == {"200"}
    assert client.is_model_ready("other", headers=headers)
    extensions = client.get_server_metadata(headers=headers)
    assert "model_repository" in (
        extensions["extensions"] if protocol == "http" else extensions.extensions
    )


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_only_a_key_of_the_scope_admin_may(running: Running, protocol: str) -> None:
    client = getattr(running, protocol)
    for name, word in (("shop", "admin"), ("scraper", "admin"), (None, "API key")):
        headers = {} if name is None else {key.lower(): v for key, v in bearer(name).items()}
        for command in (client.unload_model, client.load_model):
            with pytest.raises(InferenceServerException, match=word):
                command("other", headers=headers)
    assert running.ready() == {"200"}


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_commands_that_cannot_be_carried_out_say_why(running: Running, protocol: str) -> None:
    client = getattr(running, protocol)
    headers = {key.lower(): value for key, value in bearer("chief").items()}
    with pytest.raises(InferenceServerException, match="nope is not served"):
        client.unload_model("nope", headers=headers)
    with pytest.raises(InferenceServerException, match="there is no model nope"):
        client.load_model("nope", headers=headers)
    with pytest.raises(InferenceServerException, match="'config' is not supported"):
        client.load_model("other", headers=headers, config="{}")


@pytest.mark.parametrize("name", ["x" * 2_000_000, "other\nINFO forged", "Other", ""])
def test_name_that_no_model_can_have_is_unknown(running: Running, name: str) -> None:
    headers = {key.lower(): value for key, value in bearer("chief").items()}
    for command in (running.grpc.load_model, running.grpc.unload_model):
        with pytest.raises(InferenceServerException, match="there is no model") as raised:
            command(name, headers=headers)
        assert "NOT_FOUND" in raised.value.status()
        assert len(raised.value.message()) < 300
    log = running.server.log()
    assert "Traceback" not in log
    assert "forged" not in log


def test_default_model_is_not_unloaded_and_commands_at_once_are_carried_out_in_turn(
    running: Running,
) -> None:
    with httpx.Client(base_url=running.server.url, headers=bearer("chief"), timeout=60) as client:
        with ThreadPoolExecutor() as pool:
            default = UNLOAD.replace("other", "colours")
            unloaded, refused = pool.map(client.post, [UNLOAD, default])
        assert (unloaded.status_code, refused.status_code) == (200, 409)
        # It is the only one, too, if the other one was unloaded first.
        assert re.search("colours is the (only|default) model", refused.json()["error"])
        assert client.post(LOAD).status_code == 200
        wrong = client.post(LOAD, content=b'{"parameters": 3}')
        assert wrong.status_code == 400
    # Each command was carried out once: the log names each, with the key that asked for it.
    log = running.server.log()
    assert log.count("unload of colours is asked for by chief") == 1
