"""One server at a time: started on a free port, asked until it answers right, stopped by PID."""

import http.client
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from bench.serving.environments import ROOT

_START_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 15.0
_ASK_EVERY_S = 0.02
_MEGABYTE = 1e6
# A process that used less than this share of the busiest one's time only looks on.
_WORKING_SHARE = 0.05


class ServerError(Exception):
    """A server did not start, or answers wrong; the message has the end of its log."""


@dataclass(frozen=True, slots=True)
class Question:
    """A request whose answer is known."""

    path: str
    headers: Mapping[str, str]
    body: bytes
    label: Callable[[bytes], str]
    """Reads the label out of a server's answer."""
    expected: str


@dataclass(frozen=True, slots=True)
class Process:
    """One process of a server. `rss` counts shared pages whole, `pss` its share of them."""

    name: str
    working: bool
    cpu_s: float
    rss_mb: float
    pss_mb: float


def free_ports(count: int) -> list[int]:
    """Loopback ports that nothing listens on, all of them different."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]
    finally:
        for each in sockets:
            each.close()


class Server:
    """A running server and its processes."""

    def __init__(
        self,
        process: psutil.Popen,
        *,
        port: int,
        log: Path,
        started: float,
        stop_signal: signal.Signals,
    ) -> None:
        self.port = port
        self._process = process
        self._log = log
        self._started = started
        self._stop_signal = stop_signal

    def wait(self, question: Question) -> float:
        """Ask until the answer is right; seconds from the process's start until then.

        Raises:
            ServerError: it ended, or gave no right answer in time.
        """
        last, asked = "it does not listen", time.perf_counter()
        while (elapsed := time.perf_counter() - asked) < _START_TIMEOUT_S:
            if self._process.poll() is not None:
                raise ServerError(f"it ended with status {self._process.poll()}{self._said()}")
            try:
                last = self.ask(question)
            except (OSError, http.client.HTTPException) as error:
                last = str(error)
            else:
                if last == question.expected:
                    return time.perf_counter() - self._started
            time.sleep(_ASK_EVERY_S)
        raise ServerError(
            f"after {elapsed:.0f} s the answer is {last!r} and not {question.expected!r}"
            f"{self._said()}"
        )

    def ask(self, question: Question) -> str:
        """The label that it answers, or what it says instead.

        Raises:
            OSError: it cannot be reached.
        """
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=_START_TIMEOUT_S)
        try:
            connection.request("POST", question.path, question.body, dict(question.headers))
            response = connection.getresponse()
            content = response.read()
        finally:
            connection.close()
        if response.status != http.client.OK:
            return f"{response.status} {content[:200].decode(errors='replace')}"
        return question.label(content)

    def get(self, path: str) -> str:
        """The text under `path`.

        Raises:
            ServerError: the status is not 200.
        """
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=_START_TIMEOUT_S)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            text = response.read().decode()
        finally:
            connection.close()
        if response.status != http.client.OK:
            raise ServerError(f"GET {path} is answered {response.status}: {text[:200]}")
        return text

    def processes(self) -> list[Process]:
        """Memory and CPU time of all of its processes, the busiest first."""
        seen = []
        for process in self._family():
            try:
                memory, times = process.memory_full_info(), process.cpu_times()
                command = process.cmdline()
            except psutil.NoSuchProcess:
                continue
            seen.append((times.user + times.system, _short_name(command), memory))
        seen.sort(key=lambda entry: -entry[0])
        most = seen[0][0] if seen else 0.0
        return [
            Process(
                name=name,
                working=cpu_s >= most * _WORKING_SHARE,
                cpu_s=cpu_s,
                rss_mb=memory.rss / _MEGABYTE,
                pss_mb=memory.pss / _MEGABYTE,
            )
            for cpu_s, name, memory in seen
        ]

    def cpu_s(self) -> float:
        """CPU time of all of its processes together so far."""
        return sum(process.cpu_s for process in self.processes())

    def stop(self) -> None:
        """Signal the process that we started; whoever of its family is left then is killed."""
        family = self._family()
        if self._process.poll() is None:
            self._process.send_signal(self._stop_signal)
        _, alive = psutil.wait_procs(family, timeout=_STOP_TIMEOUT_S)
        for process in alive:
            process.kill()
        psutil.wait_procs(alive, timeout=_STOP_TIMEOUT_S)
        self._process.wait()

    def _family(self) -> list[psutil.Process]:
        if self._process.poll() is not None:
            return []
        try:
            return [self._process, *self._process.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def _said(self) -> str:
        return f"; its log ends: {self._log.read_text(errors='replace')[-800:]}"


@contextmanager
def running(
    command: Sequence[str],
    *,
    port: int,
    environment: Mapping[str, str],
    log: Path,
    stop_signal: signal.Signals = signal.SIGTERM,
) -> Iterator[Server]:
    """Start `command` in the project's root and stop it in the end, whatever happens."""
    with log.open("wb") as output:
        started = time.perf_counter()
        process = psutil.Popen(
            list(command),
            cwd=ROOT,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    server = Server(process, port=port, log=log, started=started, stop_signal=stop_signal)
    try:
        yield server
    finally:
        server.stop()


def _short_name(command: Sequence[str]) -> str:
    """What a process is, without the paths: `python -c from multiprocessing...` and the like."""
    return " ".join(part.rpartition("/")[2] for part in command)[:60]
