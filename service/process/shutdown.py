"""The worker's part in an orderly end: unready first, then a pause, and only then closing."""

import asyncio
import signal
from collections.abc import Callable
from types import FrameType
from typing import Any

SETTLE_S = 0.2
"""From the first connection that is turned away to the last that is taken: handshakes end in it."""


class Drain:
    """Stands between the signals that end a worker and the server that obeys them.

    Between SIGTERM and the server's end lies the pause, in which load balancers turn away, and
    the time in which the last handshakes end. SIGINT, which a person sends, has no pause; a second
    signal ends the server at once.
    """

    def __init__(self, pause_s: float) -> None:
        self._pause_s = pause_s
        self._servers: dict[signal.Signals, Any] = {}
        self.begun = False

    def stand_between(
        self, loop: asyncio.AbstractEventLoop, *, at_end: Callable[[], None] = lambda: None
    ) -> None:
        """Take the place of the server's signal handlers, which are set by now.

        `at_end` is called right before the server is told to end.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            server = signal.getsignal(number)
            if callable(server):
                self._servers[number] = server
                signal.signal(number, self._handler(loop, server, at_end))

    def step_aside(self) -> None:
        """Give the signals back to the server."""
        for number, server in self._servers.items():
            signal.signal(number, server)
        self._servers.clear()

    def _handler(
        self,
        loop: asyncio.AbstractEventLoop,
        server: Callable[[int, FrameType | None], Any],
        at_end: Callable[[], None],
    ) -> Callable[[int, FrameType | None], None]:
        def end(number: int, frame: FrameType | None) -> None:
            at_end()
            server(number, frame)

        def on_signal(number: int, frame: FrameType | None) -> None:
            if self.begun:
                server(number, frame)
                return
            self.begun = True
            pause_s = self._pause_s if number == signal.SIGTERM else 0.0
            loop.call_soon_threadsafe(loop.call_later, pause_s + SETTLE_S, end, number, frame)

        return on_signal
