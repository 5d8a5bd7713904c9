"""Control of the repository: activate, roll back, label, load and unload, with real workers."""

import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families
from tritonclient.http import InferenceServerClient

from tests.pipeline.cli.running import limelight
from tests.serving_kit import Server, bentoml_serve, colour_image, encode, write_artifact

PNG = encode(colour_image(np.random.default_rng(0)))


@dataclass(frozen=True)
class Running:
    server: Server
    service: httpx.Client
    admin: httpx.Client
    models: Path

    def version(self, query: str = "") -> str:
        answer = self.service.post(f"/predict?model=colours{query}", content=PNG)
        return str(answer.json().get("version", answer.status_code))

    def post(self, path: str, status: int = 200) -> dict[str, object]:
        answer = self.admin.post(path)
        assert answer.status_code == status, answer.text
        content: dict[str, object] = answer.json()
        return content


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("control")
    for version in ("1", "2", "3"):
        write_artifact(folder / "zoo", version=version)
    write_artifact(folder / "zoo", name="other")
    damaged = write_artifact(folder / "zoo", version="4")
    (damaged / "model.onnx").write_bytes(b"half of it")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with (
        bentoml_serve(
            folder / "zoo",
            folder / "serve",
            LIMELIGHT_WORKERS="2",
            LIMELIGHT_MODELS_POLL_S="0",
            LIMELIGHT_VERSIONS="colours=specific:3",
            LIMELIGHT_ADMIN_PORT=str(port),
            LIMELIGHT_ADMIN_METRICS="true",
            LIMELIGHT_TIMEOUT_S="2",
        ) as server,
        httpx.Client(base_url=server.url, timeout=30) as service,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as admin,
    ):
        yield Running(server, service, admin, folder / "zoo")


def test_version_is_activated_and_rolled_back(running: Running) -> None:
    assert running.version() == "3"
    running.post("/models/colours/activate?version=1")
    assert running.version() == "1"
    assert running.version("&version=3") == "3"  # which the policy serves
    running.post("/models/colours/rollback")
    assert running.version() == "3"
    running.post("/models/colours/activate?version=latest")
    assert running.version() == "3"


def test_version_that_fails_is_refused_and_nothing_changes(running: Running) -> None:
    before = running.admin.get("/models").json()["models"]
    assert "its manifest says" in str(running.post("/models/colours/activate?version=4", 404))
    missing = running.post("/models/colours/activate?version=9", 404)
    assert "has no version 9 on disk (there are: 4, 3, 2, 1)" in str(missing["error"])
    assert running.admin.get("/models").json()["models"] == before
    assert running.version() == "3"
    assert running.service.get("/readyz").status_code == 200


def test_clients_notice_neither_failed_commands_nor_a_label_that_moves(running: Running) -> None:
    running.admin.put("/models/colours/labels/moved?version=1")
    pinned: list[str] = []
    plain: list[str] = []
    ended = threading.Event()

    def ask() -> None:
        while not ended.is_set():
            pinned.append(running.version("&version=moved"))
            plain.append(running.version())

    client = threading.Thread(target=ask)
    client.start()
    for path in ("activate?version=99", "activate?version=4"):
        running.post(f"/models/colours/{path}", 404)
    for version, status in (("66", 404), ("4", 404), ("2", 200)):
        answer = running.admin.put(f"/models/colours/labels/moved?version={version}")
        assert answer.status_code == status
    assert running.version("&version=moved") == "2"
    ended.set()
    client.join()
    assert set(plain) == {"3"}
    assert set(pinned) == {"1", "2"}
    running.admin.delete("/models/colours/labels/moved").raise_for_status()


def test_label_pins_a_version_that_the_policy_leaves_out(running: Running) -> None:
    assert running.version("&version=stable") == "404"
    answer = running.admin.put("/models/colours/labels/stable?version=2")
    assert answer.status_code == 200
    assert running.version("&version=stable") == "2"
    assert running.version() == "3"
    listed = running.service.get("/models").json()["models"]
    assert {each["version"]: each["labels"] for each in listed if each["name"] == "colours"} == {
        "3": [],
        "2": ["stable"],
    }
    assert running.admin.put("/models/colours/labels/Not/a?version=2").status_code == 404
    assert running.admin.put("/models/colours/labels/latest?version=2").status_code == 409
    assert running.admin.put("/models/colours/labels/stable?version=4").status_code == 404
    assert running.version("&version=stable") == "2"
    running.admin.delete("/models/colours/labels/stable").raise_for_status()
    assert running.version("&version=stable") == "404"


def test_tritons_client_unloads_and_loads_a_model(running: Running) -> None:
    triton = InferenceServerClient(str(running.admin.base_url).removeprefix("http://").rstrip("/"))
    names = {each["name"] for each in triton.get_model_repository_index() if "READY" in str(each)}
    assert names == {"colours", "other"}
    triton.unload_model("other")
    assert running.service.get("/models/other").status_code == 404
    assert running.service.get("/readyz").status_code == 200
    for port in (running.admin, running.service):
        index = port.post("/v2/repository/index").json()
        index = [each for each in index if each["version"] != "4"]  # refused, and shown as such
        states = {each["name"]: each["state"] for each in index}
        assert states == {"colours": "READY", "other": "UNAVAILABLE"}
        assert "unloaded by an operator" in next(each["reason"] for each in index if each["reason"])
    triton.load_model("other")
    index = running.service.post("/v2/repository/index").json()
    assert {each["state"] for each in index if each["name"] == "other"} == {"READY"}
    assert running.service.get("/models/other").status_code == 200
    triton.close()
    assert running.post("/v2/repository/models/nope/unload", 404)
    running.post("/v2/repository/models/other/unload")
    only = running.post("/v2/repository/models/colours/unload", 409)
    assert "only model" in str(only["error"])
    running.post("/v2/repository/models/other/load")


def test_command_line_speaks_to_the_port(running: Running, tmp_path: Path) -> None:
    url = f"--url={running.admin.base_url}"
    done = limelight("models", "activate", "colours", "2", url, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "active" in done.stdout
    assert running.version() == "2"
    failed = limelight("models", "activate", "colours", "9", url, cwd=tmp_path)
    assert failed.returncode == 1
    assert "has no version 9 on disk" in failed.stderr
    limelight("models", "rollback", "colours", url, cwd=tmp_path)
    assert running.version() == "3"
    # What a script gives for a variable that is not set: it must not mean something else.
    for arguments in (("activate", "colours", ""), ("label", "colours", "stable", "")):
        unset = limelight("models", *arguments, url, cwd=tmp_path)
        assert (unset.returncode, "version is missing or empty" in unset.stderr) == (1, True)
    limelight("models", "label", "colours", "stable", "2", url, cwd=tmp_path)
    assert running.version("&version=stable") == "2"
    command = ("models", "label", "colours", "stable", url)
    for done in (
        limelight(*command, cwd=tmp_path),
        limelight(*command, "2", "--remove", cwd=tmp_path),
    ):
        assert (done.returncode, "--remove" in done.stderr) == (2, True)
    assert running.version("&version=stable") == "2"
    limelight("models", "label", "colours", "stable", "--remove", url, cwd=tmp_path)
    assert running.version("&version=stable") == "404"
    nobody = limelight("models", "list", "--url=http://127.0.0.1:1", cwd=tmp_path)
    assert nobody.returncode == 1
    assert "LIMELIGHT_ADMIN_PORT" in nobody.stderr


def test_log_level_is_set_in_all_workers_and_shown(running: Running, tmp_path: Path) -> None:
    """At `debug`, every request has a line of its own."""

    def logged() -> int:
        before = running.server.log().count("GET /livez 200")
        for _ in range(12):  # on new connections, so that every worker answers
            httpx.get(f"{running.server.url}/livez", timeout=10)
        return running.server.log().count("GET /livez 200") - before

    def set_and_wait(level: str, lines: int) -> None:
        answer = running.admin.put(f"/log-level?level={level}")
        assert answer.json() == {"level": level}
        end = time.monotonic() + 10  # the workers look four times a second
        while (found := logged()) != lines:
            assert time.monotonic() < end, found

    set_and_wait("debug", 12)
    assert running.admin.get("/log-level").json() == {"level": "debug"}
    set_and_wait("error", 0)
    refused = running.admin.put("/log-level?level=loud")
    assert refused.status_code == 409
    assert "use one of debug, info, warning, error" in refused.json()["error"]
    url = f"--url={running.admin.base_url}"
    done = limelight("log-level", "info", url, cwd=tmp_path)
    assert (done.returncode, done.stdout.strip()) == (0, "info"), done.stderr
    assert running.admin.get("/log-level").json() == {"level": "info"}


def test_metrics_of_all_workers_are_on_the_management_port_if_asked_for(running: Running) -> None:
    for _ in range(3):
        running.version()
    time.sleep(1.5)  # the workers write every second
    answer = running.admin.get("/metrics")
    found = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }
    assert found["limelight_workers",] == 2
    public = running.service.get("/metrics")
    assert public.headers["content-type"] == answer.headers["content-type"]
    assert {line for line in public.text.splitlines() if line.startswith("# HELP limelight_")} == {
        line for line in answer.text.splitlines() if line.startswith("# HELP limelight_")
    }


def test_web_pages_and_large_bodies_are_refused(running: Running) -> None:
    """A page that somebody opens on this machine could otherwise unload models."""
    path = "/v2/repository/models/other/unload"
    for headers in ({"Origin": "http://evil.example"}, {"Host": "evil.example"}):
        refused = running.admin.post(path, headers=headers)
        assert (refused.status_code, refused.headers["connection"]) == (403, "close")
    large = running.admin.post(path, content=b"x" * 70_000)
    assert (large.status_code, large.headers["connection"]) == (413, "close")
    assert running.service.get("/models/other").status_code == 200
    unknown = running.admin.get("/nothing")
    assert unknown.status_code == 404
    assert "POST /models/NAME/rollback" in unknown.json()["error"]
