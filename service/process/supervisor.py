"""Supervisor in BentoML's parent process: replaces dead workers, and closes without lost requests.

BentoML checks for dead workers every ten seconds, and replaces none in a container. It also keeps
the listening socket open while its workers exit, so that new connections are reset, and takes
commands from every user of the machine.
"""

import asyncio
import contextlib
import ctypes
import logging
import signal
import socket
import struct
import tempfile
from collections.abc import Sequence
from types import FrameType, SimpleNamespace
from typing import Any

from bentoml._internal.utils import circus as bentoml_circus
from circus import arbiter as circus_arbiter

from service.process.shutdown import SETTLE_S

logger = logging.getLogger("limelight.supervision")

CHECK_S = 0.5
"""Interval between two checks for dead workers."""

_SO_ATTACH_FILTER = 26
# Classic BPF: load byte 13 of the TCP header (its flags); drop the packet where SYN is set.
_DROP_SYN = ((0x30, 0, 0, 13), (0x45, 0, 1, 0x02), (0x06, 0, 0, 0), (0x06, 0, 0, 0xFFFFFFFF))


class Supervisor(bentoml_circus.Arbiter):
    """BentoML's arbiter that always respawns workers and closes its sockets before they exit."""

    drain_s = 0.0

    def __init__(self, watchers: Sequence[Any], **options: Any) -> None:
        for watcher in watchers:
            watcher.respawn = True
        options |= {"check_delay": CHECK_S}
        with contextlib.ExitStack() as stack:
            options |= _private_endpoints(stack, reload="plugins" in options)
            super().__init__(watchers, **options)
            self.exit_stack.push(stack.pop_all())
        self._leaving: asyncio.Task[None] | None = None
        self._interrupted = False
        # Circus has set its handlers already, and treats SIGINT like SIGTERM.
        self._on_sigint = signal.signal(signal.SIGINT, self._interrupt)

    def stop(self) -> "asyncio.Task[None]":  # type: ignore[override]  # circus returns an untyped future
        """Stop the workers; a second call stops them at once.

        SIGTERM and SIGINT call this in the arbiter's event loop.
        """
        if self._leaving is None:
            if self._interrupted:
                self.drain_s = 0.0
                for watcher in self.watchers:
                    watcher.stop_signal = signal.SIGINT
            self._leaving = asyncio.get_running_loop().create_task(self._leave())
        else:
            for watcher in self.watchers:
                for process in list(watcher.processes.values()):
                    watcher.send_signal_process(process, signal.SIGINT)
        return self._leaving

    def manage_watchers(self) -> Any:
        """Check the workers every `CHECK_S`; skip the check while circus runs another command."""
        if self._exclusive_running_command is not None:
            return None
        return super().manage_watchers()

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        self._interrupted = True
        if callable(self._on_sigint):
            self._on_sigint(number, frame)

    async def _leave(self) -> None:
        closing = asyncio.get_running_loop().create_task(self._close_sockets())
        # Circus rejects a command while another runs. Without this wait, the signal would be lost.
        while self._exclusive_running_command is not None:
            await asyncio.sleep(0.02)
        await super().stop()  # type: ignore[misc]  # see above
        closing.cancel()

    async def _close_sockets(self) -> None:
        """Close the sockets to new clients while the workers answer the connected ones.

        A connection that the kernel has accepted, but no worker, would be reset when the last
        worker exits. So no new handshakes begin, and the workers accept those that are in progress.
        """
        await asyncio.sleep(self.drain_s)
        for listening in self.sockets.values():
            drop_handshakes(listening)
        await asyncio.sleep(SETTLE_S * 2)
        for listening in self.sockets.values():
            with contextlib.suppress(OSError):
                listening.shutdown(socket.SHUT_RDWR)


def _private_endpoints(stack: contextlib.ExitStack, *, reload: bool) -> dict[str, str]:
    """Return addresses for circus's commands and events that no other user of the machine reaches.

    Circus obeys whoever connects, and one of its commands starts programs. Nobody but this process
    needs them: the addresses are in its memory. Only the reloader of `bentoml serve --reload` is
    another process; the sockets are then in a folder of this user, which `stack` removes.
    """
    folder = "inproc://limelight-"
    if reload:
        folder = f"ipc://{stack.enter_context(tempfile.TemporaryDirectory(prefix='limelight-'))}/"
    return {"endpoint": f"{folder}commands", "pubsub_endpoint": f"{folder}events"}


def supervise(*, drain_s: float) -> None:
    """Make `bentoml serve` use our supervisor; call this before it starts its workers."""
    Supervisor.drain_s = drain_s
    # Circus looks up the full name of this machine, for which the system may ask a DNS server.
    circus_arbiter.socket = SimpleNamespace(getfqdn=socket.gethostname)
    bentoml_circus.Arbiter = Supervisor  # type: ignore[misc]  # BentoML creates its arbiter by this name


def drop_handshakes(listening: socket.socket) -> None:
    """Drop the first packet of each new connection, for every process that shares the socket.

    The client's kernel sends the packet again after a second. By then the socket is closed, so the
    connection is refused, and a load balancer tries another server. If the kernel does not support
    such filters, a warning is logged.
    """
    program = b"".join(struct.pack("HBBI", *instruction) for instruction in _DROP_SYN)
    buffer = ctypes.create_string_buffer(program)
    # struct sock_fprog: the number of instructions, and their address.
    filter_program = struct.pack("HP", len(_DROP_SYN), ctypes.addressof(buffer))
    try:
        listening.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, filter_program)
    except OSError as error:
        logger.warning("new connections cannot be dropped while closing: %s", error)
