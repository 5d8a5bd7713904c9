"""Limit on repeated log lines, so that no client can fill the log."""

import logging
import time
from dataclasses import dataclass

_MOST = 10
"""Lines that one place in the code may write in one period."""
_PERIOD_S = 60.0
# Lines of the access log are asked for, and those of the registry are one per model.
_UNLIMITED = frozenset({"limelight.access", "limelight.registry"})


@dataclass(slots=True)
class _Place:
    began: float
    lines: int = 0
    suppressed: int = 0


class RepeatFilter(logging.Filter):
    """Filter of a handler that lets 10 lines a minute of each place in the code pass.

    The place is the line of code, so the text of a request cannot make a new one. The first line of
    the next period says how many were suppressed; `report` says it without one.
    """

    def __init__(self) -> None:
        super().__init__()
        self._places: dict[tuple[str, str, int], _Place] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Return True if the record may be written."""
        if record.name in _UNLIMITED:
            return True
        now = time.monotonic()
        key = (record.name, record.pathname, record.lineno)
        place = self._places.get(key)
        if place is None:
            place = self._places[key] = _Place(now)
        if now >= place.began + _PERIOD_S:
            suppressed, place.suppressed = place.suppressed, 0
            place.began, place.lines = now, 0
            if suppressed:
                record.msg = f"{record.getMessage()} ({_count(suppressed)})"
                record.args = ()
        place.lines += 1
        if place.lines == _MOST:
            record.msg = f"{record.getMessage()} (more of these are counted, not written)"
            record.args = ()
        if place.lines > _MOST:
            place.suppressed += 1
            return False
        return True

    def report(self, logger: logging.Logger) -> None:
        """Say how many lines were suppressed in periods that have ended; call this regularly."""
        now = time.monotonic()
        for (name, _, line), place in list(self._places.items()):
            if place.suppressed and now >= place.began + _PERIOD_S:
                suppressed, place.suppressed = place.suppressed, 0
                logger.warning("%s, line %d: %s", name, line, _count(suppressed))


def _count(suppressed: int) -> str:
    return f"{suppressed} more like this were not written in the last {_PERIOD_S:.0f} s"
