"""Supervisor in BentoML's parent process: replaces dead workers, and closes without lost requests.

BentoML checks for dead workers every ten seconds, and replaces none in a container. It also keeps
the listening socket open while its workers exit, so that new connections are reset, and takes
commands from every user of the machine. It does not log that a worker died, or notice a hung one.
"""

import asyncio
import contextlib
import logging
import os
import signal
import socket
from collections.abc import Sequence
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any

from bentoml._internal.utils import circus as bentoml_circus
from bentoml.exceptions import BentoMLException
from circus import arbiter as circus_arbiter

from service.process import metrics_folder
from service.process.addresses import check_free, private_endpoints
from service.process.handshakes import drop_handshakes
from service.process.metrics_folder import MetricsFolder
from service.process.orphans import PARENT
from service.process.shutdown import SETTLE_S
from service.process.worker_status import DESCRIPTOR, WorkerStatus
from service.process.worker_watch import NoWorkerStartsError, WorkerWatch
from service.repository import shared_json
from service.repository.admin_port import AdminPort
from service.repository.control import Control
from service.repository.coordinator import Coordinator
from service.repository.desk import Desk
from service.repository.memory_bound import MemoryBound
from service.repository.shared_json import SharedJson
from service.repository.version_policy import VersionPolicies
from service.settings import Settings

logger = logging.getLogger("limelight.supervision")

WORKER = "service.worker"
"""Module that a worker runs, instead of BentoML's."""
_BENTOML_WORKER = "_bentoml_impl.worker.service"
CHECK_S = 0.5
"""Interval between two checks for dead workers."""
# Time for workers to end after the last request; a second signal gives them less.
_LATE_S, _AT_ONCE_S = 10.0, 2.0


class Supervisor(bentoml_circus.Arbiter):
    """BentoML's arbiter that always respawns workers and closes its sockets before they exit."""

    settings: Settings
    """Settings of the service; BentoML passes none."""

    def __init__(self, watchers: Sequence[Any], **options: Any) -> None:
        settings, workers = self.settings, sum(watcher.numprocesses for watcher in watchers)
        # Circus numbers processes up to twice their number: a reload runs old and new ones.
        status = WorkerStatus.create(2 * workers)
        self._watch = WorkerWatch(status, workers=workers, timeout_s=settings.worker_timeout_s)
        self._metrics = _metrics_folder()
        shared = SharedJson.create(2 * workers)
        self._coordinator = Coordinator(
            settings.models,
            VersionPolicies.parse(settings.versions),
            shared,
            workers=2 * workers,
            alive=self._watch.alive,
            poll_s=settings.models_poll_s,
            bound=MemoryBound(settings.max_model_bytes, settings.unload_idle_s),
        )
        for watcher in watchers:
            watcher.respawn = True
            watcher.args = [
                WORKER if argument == _BENTOML_WORKER else argument for argument in watcher.args
            ]
            watcher.env["PYTHONPATH"] = _with_package(os.environ.get("PYTHONPATH"))
            watcher.hooks["after_spawn"] = self._note_start
            watcher.env |= {DESCRIPTOR: str(status.descriptor), PARENT: str(os.getpid())}
            watcher.env[shared_json.DESCRIPTOR] = str(shared.descriptor)
            if self._metrics is not None:
                watcher.env[metrics_folder.VARIABLE] = str(self._metrics.path)
        options |= {"check_delay": CHECK_S}
        with contextlib.ExitStack() as stack:
            options |= private_endpoints(stack, reload="plugins" in options)
            super().__init__(watchers, **options)
            self.exit_stack.push(stack.pop_all())
        self._admin: AdminPort | None = None
        self._desk: Desk | None = None
        self._leaving: asyncio.Task[None] | None = None
        self._killing: asyncio.TimerHandle | None = None
        self._interrupted = False
        self._drain_s = settings.drain_s
        # Circus has set its handlers already, and treats SIGINT like SIGTERM.
        self._on_sigint = signal.signal(signal.SIGINT, self._interrupt)
        self._handle_other_signals()

    def initialize(self) -> None:
        """Open the sockets.

        Raises:
            BentoMLException: a port is in use, or not permitted.
        """
        settings = self.settings
        place = " or ".join(each.location for each in self.sockets.values())
        try:
            super().initialize()
            self._coordinator.start()
            control = Control(self._coordinator)
            if settings.keys_file is not None:
                self._desk = Desk(self._coordinator, control)
                self._desk.start()
            if settings.admin_port is not None:
                place = f"the management port {settings.admin_port}"
                folder = self._metrics.path if self._metrics and settings.admin_metrics else None
                self._admin = AdminPort(control, settings.admin_port, metrics=folder)
                self._admin.start()
            if settings.grpc_port is not None:
                place = f"the gRPC port {settings.grpc_port}"
                check_free(self.sockets.values(), settings.grpc_port)
        except OSError as error:
            if self._metrics is not None:
                self._metrics.remove()
            raise BentoMLException(
                f"limelight cannot listen on {place} ({error.strerror}): stop the program that has "
                "the port, or choose another port"
            ) from error

    def stop(self) -> "asyncio.Task[None]":  # type: ignore[override]  # circus returns an untyped future
        """Stop the workers; a second call stops them at once.

        SIGTERM and SIGINT call this in the arbiter's event loop.
        """
        self._coordinator.stop()
        if self._desk is not None:
            self._desk.stop()
        if self._leaving is None:
            if self._interrupted:
                self._drain_s = 0.0
                for watcher in self.watchers:
                    watcher.stop_signal = signal.SIGINT
            self._leaving = asyncio.get_running_loop().create_task(self._leave())
        else:
            self._signal_workers(signal.SIGINT)
            self._kill_after(_AT_ONCE_S)
        return self._leaving

    def manage_watchers(self) -> Any:
        """Check the workers every `CHECK_S`; skip the check while circus runs another command."""
        if self._exclusive_running_command is not None:
            return None
        for pid, number in self._watch.check(CHECK_S):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        return super().manage_watchers()

    def reap_processes(self) -> None:
        """Collect the workers that have ended; circus calls this before it replaces them."""
        watchers = {pid: watcher for watcher in self.watchers for pid in watcher.processes}
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            try:
                self._watch.ended(pid, status, stopping=self._leaving is not None)
            except NoWorkerStartsError as error:
                self._exception = BentoMLException(f"limelight: {error}")
                self.stop()
            if pid in watchers:
                watchers[pid].reap_process(pid, status)

    def stop_controller_and_close_sockets(self) -> None:
        """Clean up after the last worker has ended."""
        super().stop_controller_and_close_sockets()
        if self._admin is not None:
            self._admin.close()
        if self._metrics is not None:
            self._metrics.remove()

    def _note_start(self, watcher: Any, pid: int, **others: Any) -> bool:
        self._watch.begun(pid, watcher.processes[pid].wid)
        return True

    def _handle_other_signals(self) -> None:
        for number in (signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, _ignore)  # by default, they would end this process alone
        # A terminal that closes sends SIGHUP, after which circus would start new workers. With
        # `nohup`, it was ignored from the start.
        if self.ctrl.sys_hdl._old[signal.SIGHUP] == signal.SIG_IGN:
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
        else:
            signal.signal(signal.SIGHUP, self._hang_up)

    def _hang_up(self, number: int, frame: FrameType | None) -> None:
        logger.warning("SIGHUP (the terminal was closed?): the service stops")
        self.ctrl.sys_hdl.quit()

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        self._interrupted = True
        if callable(self._on_sigint):
            self._on_sigint(number, frame)

    async def _leave(self) -> None:
        closing = asyncio.get_running_loop().create_task(self._close_sockets())
        self._kill_after(self._drain_s + self.settings.timeout_s + _LATE_S)
        # Circus rejects a command while another runs. Without this wait, the signal would be lost.
        while self._exclusive_running_command is not None:
            await asyncio.sleep(0.02)
        await super().stop()  # type: ignore[misc]  # see above
        closing.cancel()
        if self._killing is not None:
            self._killing.cancel()

    def _kill_after(self, seconds: float) -> None:
        """Kill the workers that have not ended after this time, because they hang."""
        if self._killing is not None:
            self._killing.cancel()
        loop = asyncio.get_running_loop()
        self._killing = loop.call_later(seconds, self._kill_late)

    def _kill_late(self) -> None:
        logger.error("a worker does not end: it is killed")
        self._signal_workers(signal.SIGKILL)

    def _signal_workers(self, number: signal.Signals) -> None:
        for watcher in self.watchers:
            for process in list(watcher.processes.values()):
                watcher.send_signal_process(process, number)

    async def _close_sockets(self) -> None:
        """Close the sockets to new clients while the workers answer the connected ones.

        A connection that the kernel has accepted, but no worker, would be reset when the last
        worker exits. So no new handshakes begin, and the workers accept those that are in progress.
        """
        await asyncio.sleep(self._drain_s)
        for listening in self.sockets.values():
            drop_handshakes(listening)
        await asyncio.sleep(SETTLE_S * 2)
        for listening in self.sockets.values():
            with contextlib.suppress(OSError):
                listening.shutdown(socket.SHUT_RDWR)


def _ignore(number: int, frame: FrameType | None) -> None:
    logger.warning("%s is ignored: stop the service with SIGTERM", signal.Signals(number).name)


def _with_package(path: str | None) -> str:
    """Add the folder of this package to a PYTHONPATH; in a Bento, workers begin elsewhere."""
    package = str(Path(__file__).resolve().parents[2])
    return package if not path else f"{package}{os.pathsep}{path}"


def _metrics_folder() -> MetricsFolder | None:
    try:
        return MetricsFolder()
    except OSError as error:
        logger.error("/metrics cannot add up the workers, without a folder for it: %s", error)
        return None


def supervise(settings: Settings) -> None:
    """Make `bentoml serve` use our supervisor; call this before it starts its workers."""
    Supervisor.settings = settings
    # Circus looks up the full name of this machine, for which the system may ask a DNS server.
    circus_arbiter.socket = SimpleNamespace(getfqdn=socket.gethostname)
    bentoml_circus.Arbiter = Supervisor  # type: ignore[misc]  # BentoML creates its arbiter by this name
