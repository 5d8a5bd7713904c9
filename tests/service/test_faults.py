"""Faults of the machine and of processes: the service serves on, and the log says what happened."""

import os
import pty
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest

from tests.service.http.test_request_body import begin_upload, connect
from tests.service.http.test_routes import PNG
from tests.service.telemetry.scraping import find, samples
from tests.service.test_operation import slowness, until, workers
from tests.serving_kit import REPOSITORY, Server, bentoml_serve, colour_image, encode

TIMEOUT_S = 2
"""Time after which a worker of these tests counts as hung."""


@dataclass(frozen=True)
class Machine:
    """A service whose temporary folder is a small disk of its own, where that is permitted."""

    server: Server
    temporary: Path
    """Temporary folder of the service, seen from here."""
    has_own_disk: bool

    def fill(self) -> None:
        with (self.temporary / "filler").open("ab", buffering=0) as file:
            while True:
                try:
                    file.write(bytes(4096))
                except OSError:
                    return

    def free(self) -> None:
        (self.temporary / "filler").unlink()


def predict(server: Server) -> int:
    return httpx.post(f"{server.url}/predict", content=PNG, timeout=20).status_code


def serving(server: Server) -> float:
    return find(samples(server), "limelight_workers")


def until_replaced(server: Server, victim: int) -> None:
    def replaced() -> bool:
        alive = workers(server)
        said = f"(process {victim}) was killed by" in server.log()
        return said and len(alive) == 2 and victim not in alive and serving(server) == 2

    until(replaced, 20, f"a replacement of {victim}")


@pytest.fixture(scope="module")
def machine(zoo: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    folder = tmp_path_factory.mktemp("machine")
    disk = folder / "disk"
    disk.mkdir()
    mount = f'mount -t tmpfs -o size=4m none {disk} && exec "$@"'
    tracer = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount, "sh"]
    found = shutil.which("unshare") is not None
    has_own_disk = found and subprocess.run([*tracer, "true"], check=False).returncode == 0
    with bentoml_serve(
        zoo,
        folder,
        tracer=tracer if has_own_disk else [],
        TMPDIR=str(disk),
        LIMELIGHT_WORKERS="2",
        LIMELIGHT_WORKER_TIMEOUT_S=str(TIMEOUT_S),
    ) as server:
        until(lambda: serving(server) == 2, 20, "two workers")
        seen = Path(f"/proc/{server.process.pid}/root{disk}") if has_own_disk else disk
        yield Machine(server, seen, has_own_disk)


def test_a_killed_worker_is_logged_with_its_signal_and_replaced(machine: Machine) -> None:
    server = machine.server
    victim = min(workers(server))
    os.kill(victim, signal.SIGSEGV)
    until_replaced(server, victim)
    line = rf"\[ERROR\] .*worker \d \(process {victim}\) was killed by SIGSEGV after \d+ s; it is "
    assert re.search(line, server.log())
    died = int(re.findall(r"died since the start: (\d+)", server.log())[-1])
    victim = min(workers(server))
    os.kill(victim, signal.SIGKILL)
    until_replaced(server, victim)
    assert f"died since the start: {died + 1}" in server.log()
    assert "was killed by SIGKILL (the kernel sends it if memory runs out)" in server.log()


def test_a_hung_worker_is_logged_killed_and_replaced(machine: Machine) -> None:
    server = machine.server
    hung = min(workers(server))
    os.kill(hung, signal.SIGSTOP)
    until_replaced(server, hung)
    assert re.search(
        rf"worker \d \(process {hung}\) has hung for [23] s: it is killed", server.log()
    )
    assert predict(server) == 200


def test_requests_are_served_while_the_disk_is_full(machine: Machine) -> None:
    if not machine.has_own_disk:
        pytest.skip("this machine does not let a test mount a small disk (unshare, mount)")
    server = machine.server
    machine.fill()
    before = workers(server)
    for worker in before:
        os.kill(worker, signal.SIGKILL)
    until(lambda: len(workers(server) - before) == 2, 20, "replacements")
    # A form is parsed in memory.
    noise = encode(colour_image(np.random.default_rng(0), 700))
    assert len(noise) > 1_000_000
    form = {"image": ("a.png", noise, "image/png")}
    assert httpx.post(f"{server.url}/predict", files=form, timeout=20).status_code == 200
    assert predict(server) == 200
    assert httpx.get(f"{server.url}/metrics", timeout=20).status_code == 200
    said = "the metrics of this worker cannot be written"
    until(lambda: said in server.log(), 10, "a line in the log")
    assert "No space left on device" in server.log()
    assert "SIGBUS" not in server.log()
    machine.free()
    until(lambda: serving(server) == 2, 10, "metrics of both workers again")
    until(lambda: "the metrics of this worker are written again" in server.log(), 5, "a line")


def test_metrics_survive_the_deletion_of_their_folder(machine: Machine) -> None:
    server = machine.server
    assert predict(server) == 200
    counted = find(samples(server), "limelight_predictions_total")
    (folder,) = machine.temporary.glob("limelight-metrics-*")
    shutil.rmtree(folder)
    assert httpx.get(f"{server.url}/metrics").status_code == 200
    until(lambda: serving(server) == 2, 10, "the metrics of both workers")
    assert find(samples(server), "limelight_predictions_total") >= counted
    shutil.rmtree(folder)
    victim = min(workers(server))
    os.kill(victim, signal.SIGKILL)
    until_replaced(server, victim)


def test_other_signals_do_not_end_the_parent(machine: Machine) -> None:
    server = machine.server
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        server.process.send_signal(number)
        said = f"{number.name} is ignored: stop the service with SIGTERM"
        until(lambda said=said: said in server.log(), 5, said)  # type: ignore[misc]
    assert server.process.poll() is None
    assert predict(server) == 200


def test_bad_requests_write_a_bounded_number_of_log_lines(machine: Machine) -> None:
    server = machine.server
    address = urlsplit(server.url)
    before = len(server.log().splitlines())
    for _ in range(200):
        with socket.create_connection((str(address.hostname), address.port or 0), 5) as connection:
            connection.sendall(b"\x16\x03\x01 not HTTP\r\n\r\n")
            while connection.recv(4096):
                pass
    assert predict(server) == 200
    assert len(server.log().splitlines()) - before <= 2 * 10  # of each worker


def test_a_second_service_keeps_the_metrics_of_the_first(machine: Machine, zoo: Path) -> None:
    first = machine.server
    assert predict(first) == 200
    counted = find(samples(first), "limelight_predictions_total")
    home = first.log_file.parent / "home"
    folder = first.log_file.parent / "second"
    with bentoml_serve(zoo, folder, BENTOML_HOME=str(home), LIMELIGHT_WORKERS="1") as second:
        assert find(samples(second), "limelight_predictions_total") == 0
        assert find(samples(first), "limelight_predictions_total") >= counted
        assert serving(first) == 2
        assert second.process.poll() is None
    assert serving(first) == 2


def test_a_port_in_use_is_one_sentence(machine: Machine, zoo: Path) -> None:
    port = urlsplit(machine.server.url).port
    done = start("--port", str(port), LIMELIGHT_MODELS=str(zoo))
    assert done.returncode == 1
    assert re.search(
        rf"cannot listen on .*:{port} \(Address already in use\): stop the", done.stderr
    )
    assert "Traceback" not in done.stdout + done.stderr


def test_workers_end_with_their_parent(zoo: Path, tmp_path: Path) -> None:
    with bentoml_serve(
        zoo, tmp_path, LIMELIGHT_WORKERS="2", LIMELIGHT_DRAIN_S="60", TMPDIR=str(tmp_path)
    ) as server:
        assert len(workers(server)) == 2
        (left,) = tmp_path.glob("limelight-metrics-*")
        halfway = connect(server, 20)
        begin_upload(halfway, len(PNG))
        halfway.send(PNG[:50])
        server.process.kill()
        server.process.wait()
        until(lambda: is_free(server), 15 * slowness(), "a free port")
        halfway.send(PNG[50:])  # the port is free, and the accepted request is answered
        assert halfway.getresponse().status == 200
        halfway.close()
    with bentoml_serve(zoo, tmp_path, port=port_of(server), TMPDIR=str(tmp_path)) as again:
        assert predict(again) == 200
        assert not left.exists()  # the next start removes what the killed one left
        assert len(list(tmp_path.glob("limelight-metrics-*"))) == 1
    assert list(tmp_path.glob("limelight-metrics-*")) == []


def test_a_terminal_that_closes_ends_the_service(zoo: Path, tmp_path: Path) -> None:
    ours, its = pty.openpty()
    code = (
        "import fcntl, os, sys, termios\n"
        f"fcntl.ioctl(os.open({os.ttyname(its)!r}, os.O_RDWR), termios.TIOCSCTTY, 0)\n"
        "os.execv(sys.argv[1], sys.argv[1:])"
    )
    tracer = [sys.executable, "-c", code]
    with bentoml_serve(zoo, tmp_path, tracer=tracer, LIMELIGHT_WORKERS="2") as server:
        os.close(its)
        os.close(ours)
        assert server.process.wait(timeout=10 * slowness()) == 0
        assert "SIGHUP (the terminal was closed?): the service stops" in server.log()
        assert is_free(server)


def test_a_hung_worker_does_not_keep_the_service_from_ending(zoo: Path, tmp_path: Path) -> None:
    with bentoml_serve(zoo, tmp_path, LIMELIGHT_WORKERS="1") as server:
        (hung,) = workers(server)
        os.kill(hung, signal.SIGSTOP)
        server.process.send_signal(signal.SIGINT)
        until(lambda: not accepts(server), 10, "the end of accepting")
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(timeout=10 * slowness()) == 0
        assert "a worker does not end: it is killed" in server.log()
        assert is_free(server)


def test_nohup_keeps_the_service(zoo: Path, tmp_path: Path) -> None:
    with bentoml_serve(zoo, tmp_path, tracer=["nohup"], LIMELIGHT_WORKERS="1") as server:
        before = workers(server)
        server.process.send_signal(signal.SIGHUP)
        assert predict(server) == 200
        assert workers(server) == before
    assert server.process.returncode == 0
    assert "SIGHUP" not in server.log()


def test_settings_without_sense_stop_the_start() -> None:
    done = start("--port", "0", LIMELIGHT_TRACE_ENDPOINT="")
    assert done.returncode == 1
    assert done.stderr == (
        "limelight: LIMELIGHT_TRACE_ENDPOINT is '': it is empty: give it a value, or unset it\n"
    )


BLOCK = """
import sys
sys.modules["opentelemetry.exporter.otlp.proto.http.trace_exporter"] = None
"""
DIE = """
import os, sys
if "service.worker" in sys.orig_argv:
    os._exit(3)
"""


def test_a_missing_extra_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(BLOCK)
    done = start(
        *("--port", "0"),
        PYTHONPATH=f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}",
        LIMELIGHT_TRACE_ENDPOINT="http://127.0.0.1:9/v1/traces",
    )
    assert done.returncode == 1
    assert "pip install 'limelight[tracing]'" in done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_workers_that_never_serve_stop_the_start(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(DIE)
    done = start(
        *("--port", "0"),
        PYTHONPATH=f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}",
        LIMELIGHT_WORKERS="1",
    )
    assert done.returncode == 1
    assert "3 workers died, and none has served" in done.stderr
    assert done.stdout.count("exited with status 3") == 3
    assert "Traceback" not in done.stdout + done.stderr


def start(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run `bentoml serve` until it ends by itself."""
    inherited = {name: value for name, value in os.environ.items() if "LIMELIGHT_" not in name}
    return subprocess.run(
        [sys.executable, "-m", "bentoml", "serve", *arguments],
        env=inherited | variables,
        cwd=REPOSITORY,
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )


def port_of(server: Server) -> int:
    return urlsplit(server.url).port or 0


def accepts(server: Server) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port_of(server)), timeout=0.2).close()
    except OSError:
        return False
    return True


def is_free(server: Server) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("0.0.0.0", port_of(server)))
        except OSError:
            return False
    return True
