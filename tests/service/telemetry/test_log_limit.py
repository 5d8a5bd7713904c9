"""Limit on repeated log lines."""

import logging
from collections.abc import Iterator

import pytest

from service.telemetry import log_limit
from service.telemetry.log_limit import RepeatFilter


class Lines(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


class Clock:
    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(log_limit, "time", clock)
    return clock


@pytest.fixture
def handler(clock: Clock) -> Iterator[Lines]:
    handler = Lines()
    handler.addFilter(RepeatFilter())
    for name in ("limelight.test", "limelight.access"):
        logger = logging.getLogger(name)
        logger.addHandler(handler)
        logger.propagate = False
        logger.setLevel(logging.INFO)
    yield handler
    for name in ("limelight.test", "limelight.access"):
        logging.getLogger(name).removeHandler(handler)
        logging.getLogger(name).propagate = True


def complain(number: int, logger: str = "limelight.test") -> None:
    logging.getLogger(logger).warning("bad request %d", number)


def test_one_place_writes_ten_lines_a_minute_and_says_how_many_more_there_were(
    handler: Lines, clock: Clock
) -> None:
    for number in range(500):
        complain(number)
    assert len(handler.lines) == 10
    assert handler.lines[0] == "bad request 0"
    assert handler.lines[9] == "bad request 9 (more of these are counted, not written)"
    clock.now += 61
    complain(500)
    more = "490 more like this were not written in the last 60 s"
    assert handler.lines[10:] == [f"bad request 500 ({more})"]


def test_suppressed_lines_are_reported_without_another_one(handler: Lines, clock: Clock) -> None:
    (limit,) = (each for each in handler.filters if isinstance(each, RepeatFilter))
    logger = logging.getLogger("limelight.test")
    for number in range(12):
        complain(number)
    limit.report(logger)
    assert len(handler.lines) == 10
    clock.now += 61
    limit.report(logger)
    limit.report(logger)
    assert len(handler.lines) == 11
    assert "2 more like this were not written in the last 60 s" in handler.lines[10]


def test_other_places_and_the_access_log_are_not_affected(handler: Lines) -> None:
    for number in range(50):
        complain(number)
    logging.getLogger("limelight.test").warning("something else")
    assert handler.lines[-1] == "something else"
    for number in range(50):
        complain(number, "limelight.access")
    assert len(handler.lines) == 10 + 1 + 50
