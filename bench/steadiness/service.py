"""A real `bentoml serve` as a child process: started, looked into, stopped, each by its PID."""

import http.client
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from bench.steadiness import kernel
from bench.steadiness.calls import REPOSITORY
from bench.steadiness.client import HOST

# What BentoML's worker processes have on their command line, and its other helpers have not.
_WORKER = "_bentoml_impl.worker.service"


class Service:
    """One replica on a fixed port; it can be started and stopped many times.

    Args:
        folder: takes its log, and BENTOML_HOME, which two replicas must not share.
        settings: variables of its environment; no LIMELIGHT_ variable is inherited.
    """

    def __init__(self, folder: Path, settings: Mapping[str, str] | None = None) -> None:
        self.port = kernel.free_port()
        self._folder = folder
        self._settings = dict(settings or {})
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def pid(self) -> int:
        """Of BentoML's parent process, the one that gets the signals."""
        assert self._process is not None  # noqa: S101  # it was started
        return self._process.pid

    def start(self, timeout_s: float = 60) -> float:
        """Start it and wait until it is ready; seconds that this took.

        Raises:
            RuntimeError: it ended, or is not ready in time; the message has its log's end.
        """
        variables = {name: value for name, value in os.environ.items() if "LIMELIGHT_" not in name}
        variables |= {
            "BENTOML_HOME": str(self._folder / "home"),
            "BENTOML_DO_NOT_TRACK": "True",
            **self._settings,
        }
        started_s = time.perf_counter()
        with (self._folder / "serve.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "bentoml", "serve", "--port", str(self.port)],
                cwd=REPOSITORY,
                env=variables,
                stdout=log,
                stderr=log,
                # A group of its own: Ctrl-C ends the measurement, which then stops the service.
                start_new_session=True,
            )
        while time.perf_counter() - started_s < timeout_s and self._process.poll() is None:
            if self.status("/readyz") == 200:
                return time.perf_counter() - started_s
            time.sleep(0.02)
        raise RuntimeError(f"bentoml serve is not ready:\n{self.log()[-3000:]}")

    def stop(self, with_signal: signal.Signals = signal.SIGTERM, timeout_s: float = 60) -> int:
        """Signal the parent, wait for its end, and return its exit status.

        Raises:
            subprocess.TimeoutExpired: it still runs.
        """
        os.kill(self.pid, with_signal)
        return self.wait(timeout_s)

    def wait(self, timeout_s: float = 60) -> int:
        """Wait for the parent's end, and return its exit status (minus the signal that killed it).

        Raises:
            subprocess.TimeoutExpired: it still runs.
        """
        assert self._process is not None  # noqa: S101  # it was started
        return self._process.wait(timeout_s)

    def clean_up(self) -> None:
        """Make sure that no process of it is left, however the measurement ended."""
        if self._process is None:
            return
        family = kernel.descendants(self._process.pid)
        if self._process.poll() is None:
            with suppress(subprocess.TimeoutExpired):
                self.stop(timeout_s=20)
        for pid in (*family, *([self._process.pid] if self._process.poll() is None else ())):
            # Its PID may be another's by now: only what still looks like BentoML is killed.
            if "bentoml" in kernel.command_line(pid):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def workers(self) -> list[int]:
        """PIDs of the processes that answer requests."""
        return [pid for pid in kernel.descendants(self.pid) if _WORKER in kernel.command_line(pid)]

    def family(self) -> list[int]:
        """PIDs of all its processes, the parent among them."""
        return [self.pid, *kernel.descendants(self.pid)]

    def status(self, path: str, timeout_s: float = 5) -> int | None:
        """Status of a GET on a connection of its own; None where there is no answer."""
        try:
            return self._get(path, timeout_s)[0]
        except (OSError, http.client.HTTPException):
            return None

    def metrics(self) -> "Metrics":
        """What /metrics says now."""
        status, body = self._get("/metrics", 10)
        if status != 200:
            raise RuntimeError(f"/metrics answers {status}")
        return Metrics(body.decode())

    def log(self) -> str:
        """Everything that it has written, over all its starts."""
        return (self._folder / "serve.log").read_text(errors="replace")

    def _get(self, path: str, timeout_s: float) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(HOST, self.port, timeout=timeout_s)
        try:
            connection.request("GET", path, headers={"Connection": "close"})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()


class Metrics:
    """The samples of one scrape."""

    def __init__(self, text: str) -> None:
        self.bytes = len(text)
        self._samples = [
            sample for family in text_string_to_metric_families(text) for sample in family.samples
        ]

    def __len__(self) -> int:
        return len(self._samples)

    def sum(self, name: str, **labels: str) -> float:
        """Samples of this name (`_total`, `_sum` included) whose labels agree, added up."""
        return sum(
            sample.value
            for sample in self._samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )


@contextmanager
def running(
    settings: Mapping[str, str] | None = None, *, replicas: int = 1
) -> Iterator[list[Service]]:
    """Replicas in a temporary folder, ready, and gone after the block; `settings` as Service's."""
    with tempfile.TemporaryDirectory(prefix="limelight-steady-") as folder:
        services = [Service(Path(folder) / str(index), settings) for index in range(replicas)]
        try:
            for service in services:
                service.start()
            yield services
        finally:
            for service in services:
                service.clean_up()
