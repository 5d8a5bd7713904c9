"""Graceful shutdown of a worker: first unready, then a pause, then closing."""

import asyncio
import signal
from collections.abc import Callable
from types import FrameType
from typing import Any

from service.process.orphans import is_orphan

SETTLE_S = 0.2
"""Time for TCP handshakes in progress to finish, before a listening socket is closed."""


class Drain:
    """Handler of SIGTERM and SIGINT that delays the server's own handler.

    After SIGTERM, the worker stays open but unready. Load balancers stop sending requests in this
    pause, and the last handshakes end. SIGINT comes from a person and has no pause. A worker whose
    parent died has none, because it holds the port. A second signal ends the server at once.
    """

    def __init__(self, pause_s: float) -> None:
        self._pause_s = pause_s
        self._server_handlers: dict[signal.Signals, Any] = {}
        self.begun = False

    def install(
        self, loop: asyncio.AbstractEventLoop, *, on_end: Callable[[], None] = lambda: None
    ) -> None:
        """Replace the signal handlers that the server has set.

        `on_end` is called right before the server's own handler.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            handler = signal.getsignal(number)
            if callable(handler):
                self._server_handlers[number] = handler
                signal.signal(number, self._delayed(loop, handler, on_end))

    def uninstall(self) -> None:
        """Restore the server's signal handlers."""
        for number, handler in self._server_handlers.items():
            signal.signal(number, handler)
        self._server_handlers.clear()

    def _delayed(
        self,
        loop: asyncio.AbstractEventLoop,
        handler: Callable[[int, FrameType | None], Any],
        on_end: Callable[[], None],
    ) -> Callable[[int, FrameType | None], None]:
        def end(number: int, frame: FrameType | None) -> None:
            on_end()
            handler(number, frame)

        def settled(number: int, frame: FrameType | None) -> None:
            drains = number == signal.SIGTERM and not is_orphan()
            loop.call_later(self._pause_s if drains else 0.0, end, number, frame)

        def on_signal(number: int, frame: FrameType | None) -> None:
            if not self.begun:
                self.begun = True
                # The kernel sends SIGTERM for each thread of a dying parent. Until the last thread
                # has ended, the parent seems to be alive.
                loop.call_soon_threadsafe(loop.call_later, SETTLE_S, settled, number, frame)
            elif not is_orphan():
                handler(number, frame)

        return on_signal
