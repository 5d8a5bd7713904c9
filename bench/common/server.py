"""One server at a time: started on a free port, asked until it answers right, stopped by PID."""

import http.client
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from bench.common import ROOT
from bench.common.client import HOST

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 20.0
SETTLE_S = 1.0  # by then the other workers are ready too
_ASK_EVERY_S = 0.02
# Only BentoML's worker processes have it on their command line; its other helpers do not.
_WORKER = "service.worker"


class ServerError(Exception):
    """A server did not start, or answers wrong; the message has the end of its log."""


@dataclass(frozen=True, slots=True)
class Question:
    """A request whose answer is known; a POST if it has a body."""

    path: str
    read: Callable[[bytes], str]
    """Reads what matters out of the body of an answer with status 200."""
    expected: str
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


READY = Question("/readyz", lambda _: "ready", "ready")


def free_port() -> int:
    """A port on loopback that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


class Server:
    """A running server and its processes."""

    def __init__(self, process: psutil.Popen, port: int, log: Path) -> None:
        self.port = port
        self.pid = int(process.pid)
        """The parent process, which gets the signals."""
        self._process = process
        self._log = log
        self._started_s = time.perf_counter()
        self._seen: set[psutil.Process] = set()

    def wait(self, question: Question = READY) -> float:
        """Ask until the answer is right; seconds from the server's start until then.

        Raises:
            ServerError: it ended, or gave no right answer in time.
        """
        last, asked_s = "it does not listen", time.perf_counter()
        while time.perf_counter() - asked_s < START_TIMEOUT_S:
            if self._process.poll() is not None:
                raise ServerError(f"it ended with status {self._process.poll()}{self._said()}")
            try:
                last = self.ask(question)
            except (OSError, http.client.HTTPException) as error:
                last = str(error)
            if last == question.expected:
                return time.perf_counter() - self._started_s
            time.sleep(_ASK_EVERY_S)
        raise ServerError(f"the answer is {last!r} and not {question.expected!r}{self._said()}")

    def ask(self, question: Question) -> str:
        """The answer as the question reads it, or its status and text where that is not 200.

        Raises:
            OSError: it cannot be reached.
        """
        connection = http.client.HTTPConnection(HOST, self.port, timeout=START_TIMEOUT_S)
        try:
            method = "POST" if question.body else "GET"
            headers = {"Connection": "close", **question.headers}
            connection.request(method, question.path, question.body, headers)
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        if answer.status != http.client.OK:
            return f"{answer.status} {content[:200].decode(errors='replace')}"
        return question.read(content)

    def family(self) -> list[psutil.Process]:
        """All of its processes, the parent first; none once that has ended."""
        if self._process.poll() is None:
            with suppress(psutil.NoSuchProcess):
                found = [self._process, *self._process.children(recursive=True)]
                self._seen.update(found)
                return found
        return []

    def workers(self) -> list[psutil.Process]:
        """The processes of BentoML's that answer requests."""
        found = []
        for process in self.family():
            with suppress(psutil.NoSuchProcess):
                if _WORKER in " ".join(process.cmdline()):
                    found.append(process)
        return found

    def exit_status(self) -> int:
        """Wait for the parent's end; minus the signal, if one killed it."""
        return int(self._process.wait(START_TIMEOUT_S))

    def stop(self, with_signal: signal.Signals) -> None:
        """Signal the process that we started; whoever of its family is left then is killed."""
        if self.family():
            self._process.send_signal(with_signal)
        _, alive = psutil.wait_procs(self._seen, timeout=STOP_TIMEOUT_S)
        for process in alive:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(alive, timeout=STOP_TIMEOUT_S)
        self._process.wait()

    def _said(self) -> str:
        return f"; its log ends: {self._log.read_text(errors='replace')[-3000:]}"


@contextmanager
def running(
    command: Callable[[int], Sequence[str]],
    variables: Mapping[str, str],
    *,
    stop_signal: signal.Signals = signal.SIGTERM,
) -> Iterator[Server]:
    """Start in the project's root what `command` says for a port, and stop it in the end.

    It inherits no LIMELIGHT_ variable, and has a BENTOML_HOME of its own.
    """
    with tempfile.TemporaryDirectory(prefix="limelight-bench-") as folder:
        log, port = Path(folder) / "log", free_port()
        inherited = {name: it for name, it in os.environ.items() if "LIMELIGHT_" not in name}
        own = {"BENTOML_HOME": folder, "BENTOML_DO_NOT_TRACK": "True", "BENCH_FOLDER": folder}
        with log.open("wb") as output:
            process = psutil.Popen(
                list(command(port)),
                cwd=ROOT,
                env={**inherited, **own, **variables},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                # A group of its own: Ctrl-C ends the measurement, which then stops the server.
                start_new_session=True,
            )
        server = Server(process, port, log)
        try:
            yield server
        finally:
            server.stop(stop_signal)


def limelight_command(port: int) -> list[str]:
    """Our service, as it comes."""
    return [sys.executable, "-m", "bentoml", "serve", "--host", HOST, "--port", str(port)]


@contextmanager
def limelight(settings: Mapping[str, str] | None = None) -> Iterator[Server]:
    """Our service with `settings`, ready, and gone after the block.

    Raises:
        ServerError: it does not get ready.
    """
    with running(limelight_command, settings or {}) as server:
        server.wait()
        time.sleep(SETTLE_S)
        yield server
