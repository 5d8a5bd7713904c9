"""A whole service and whole commands: nobody hears of them, and nobody else commands them."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil  # type: ignore[import-untyped]
import pytest

from tests.serving_kit import REPOSITORY, Server, bentoml_serve
from tests.silence import Watch, begin_watch

CAT = REPOSITORY / "examples/cat.png"


@pytest.fixture(scope="module")
def served(zoo: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("isolated")
    with bentoml_serve(zoo, folder, LIMELIGHT_WORKERS="2") as server:
        yield server


def test_a_whole_bentoml_serve_reaches_nobody_and_writes_nothing_at_home(
    zoo: Path, tmp_path: Path
) -> None:
    watch = begin_watch(tmp_path / "watch")
    with bentoml_serve(
        zoo,
        tmp_path / "serve",
        tracer=watch.tracer,
        also=watch.variables,
        LIMELIGHT_WORKERS="1",
    ) as server:
        assert httpx.post(f"{server.url}/predict", content=CAT.read_bytes()).status_code == 200
    assert server.process.returncode == 0
    assert watch.reached() == set()
    assert watch.written() == []


PREDICT = ["-m", "pipeline", "predict", str(CAT), "--model", "cifar10"]
LIBRARY = f"import limelight; print(limelight.load('zoo/cifar10').predict({str(CAT)!r}).label)"


@pytest.mark.parametrize("arguments", [PREDICT, ["-c", LIBRARY]], ids=["command", "library"])
def test_a_whole_prediction_reaches_nobody_and_writes_nothing_at_home(
    arguments: list[str], tmp_path: Path
) -> None:
    watch = begin_watch(tmp_path)
    done = _run_watched(watch, arguments)
    assert done.returncode == 0, done.stderr
    assert "cat" in done.stdout
    assert watch.reached() == set()
    assert watch.written() == []


def test_the_watch_sees_look_ups_and_files(tmp_path: Path) -> None:
    watch = begin_watch(tmp_path)
    code = (
        "import os, pathlib, socket\n"
        "pathlib.Path.home().joinpath('id').write_text('')\n"
        "try: socket.getaddrinfo('telemetry.example', 443)\n"
        "except OSError: pass\n"
        "out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        "out.setblocking(False)\n"
        "try: out.connect(('192.0.2.1', 9))\n"
        "except OSError: pass\n"
    )
    assert _run_watched(watch, ["-c", code]).returncode == 0
    assert "socket.getaddrinfo telemetry.example" in watch.reached()
    assert {"socket.connect 192.0.2.1", "192.0.2.1:9"} & watch.reached()
    assert watch.written() == ["id"]


IMPORTS = ["service.bento", "limelight.runtime.engine", "pipeline.runs.run", "bench.passes"]


@pytest.mark.parametrize("module", [*IMPORTS, "bench.peers.network"])
def test_telemetry_is_off_before_onnx_runtime_is_imported(module: str) -> None:
    code = (
        "import os, sys\n"
        "def check(event, arguments):\n"
        "    if event == 'import' and arguments[0] == 'onnxruntime':\n"
        "        print(os.environ.get('ORT_DISABLE_TELEMETRY'))\n"
        "sys.addaudithook(check)\n"
        f"import {module}, onnxruntime\n"
    )
    environment = dict(os.environ)
    environment.pop("ORT_DISABLE_TELEMETRY", None)
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=REPOSITORY, check=True,
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout.split()[0] == "1"


def test_no_process_of_the_service_listens_on_another_port(served: Server) -> None:
    port = httpx.URL(served.url).port
    parent = psutil.Process(served.process.pid)
    processes = [parent, *parent.children(recursive=True)]
    assert len(processes) == 3
    listening = {
        connection.laddr.port
        for process in processes
        for connection in process.net_connections(kind="tcp")
        if connection.status == psutil.CONN_LISTEN
    }
    assert listening == {port}


def _run_watched(watch: Watch, arguments: list[str]) -> subprocess.CompletedProcess[str]:
    variables = {**os.environ, **watch.variables}
    return subprocess.run(
        [*watch.tracer, sys.executable, *arguments],
        env={name: value for name, value in variables.items() if value is not None},
        cwd=REPOSITORY,
        check=False,
        capture_output=True,
        text=True,
    )
