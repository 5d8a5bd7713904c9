"""What BentoML's parent process does for its workers: replace the dead, and close without a loss.

BentoML looks for dead workers every ten seconds, replaces none in a container, and keeps the
listening socket open while its workers leave, so that whoever connects then is reset.
"""

import asyncio
import contextlib
import ctypes
import logging
import signal
import socket
import struct
from collections.abc import Sequence
from types import FrameType
from typing import Any

from bentoml._internal.utils import circus as bentoml_circus

from service.process.shutdown import SETTLE_S

logger = logging.getLogger("limelight.supervision")

CHECK_S = 0.5
"""How often dead workers are looked for."""

_SO_ATTACH_FILTER = 26
# Classic BPF: load byte 13 of the TCP header (its flags); drop the packet where SYN is set.
_DROP_SYN = ((0x30, 0, 0, 13), (0x45, 0, 1, 0x02), (0x06, 0, 0, 0), (0x06, 0, 0, 0xFFFFFFFF))


class Supervisor(bentoml_circus.Arbiter):
    """BentoML's arbiter, which respawns workers wherever it runs and closes its socket in time."""

    drain_s = 0.0

    def __init__(self, watchers: Sequence[Any], **options: Any) -> None:
        for watcher in watchers:
            watcher.respawn = True
        super().__init__(watchers, **(options | {"check_delay": CHECK_S}))
        self._leaving: asyncio.Task[None] | None = None
        self._interrupted = False
        # Circus has set its handlers by now, and treats SIGINT as it does SIGTERM.
        self._on_sigint = signal.signal(signal.SIGINT, self._interrupt)

    def stop(self) -> "asyncio.Task[None]":  # type: ignore[override]  # it gives one, untyped
        """Called at SIGTERM and SIGINT, in the arbiter's event loop; a second one hurries."""
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
        """Called every `CHECK_S`; not while circus is busy, when it would only complain."""
        if self._exclusive_running_command is not None:
            return None
        return super().manage_watchers()

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        self._interrupted = True
        if callable(self._on_sigint):
            self._on_sigint(number, frame)

    async def _leave(self) -> None:
        closing = asyncio.get_running_loop().create_task(self._close_sockets())
        # Circus refuses a second command while one runs, and would forget about the signal.
        while self._exclusive_running_command is not None:
            await asyncio.sleep(0.02)
        await super().stop()  # type: ignore[misc]  # see above
        closing.cancel()

    async def _close_sockets(self) -> None:
        """Turn new clients away while the workers still answer those who got in.

        A connection that the kernel has accepted and no worker has would be reset when the last
        worker leaves. So no new handshake begins; those under way end, and workers take them.
        """
        await asyncio.sleep(self.drain_s)
        for listening in self.sockets.values():
            refuse_handshakes(listening)
        await asyncio.sleep(SETTLE_S * 2)
        for listening in self.sockets.values():
            with contextlib.suppress(OSError):
                listening.shutdown(socket.SHUT_RDWR)


def supervise(*, drain_s: float) -> None:
    """Make `bentoml serve`, which is about to start its workers, do so under our supervisor."""
    Supervisor.drain_s = drain_s
    bentoml_circus.Arbiter = Supervisor  # type: ignore[misc]  # the place where it is made


def refuse_handshakes(listening: socket.socket) -> None:
    """Drop each new connection's first packet, for every process that shares the socket.

    The client's kernel repeats it after a second, when the socket is closed: it is then refused,
    and a load balancer turns elsewhere. Where the kernel has no such filter, nothing happens.
    """
    program = b"".join(struct.pack("HBBI", *instruction) for instruction in _DROP_SYN)
    buffer = ctypes.create_string_buffer(program)
    # struct sock_fprog: the number of instructions, and where they are.
    filter_program = struct.pack("HP", len(_DROP_SYN), ctypes.addressof(buffer))
    try:
        listening.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, filter_program)
    except OSError as error:
        logger.warning("new connections cannot be held off while closing: %s", error)
