"""Readiness of a worker, by that of its parts."""

from dataclasses import dataclass

import pytest

from limelight.errors import Draining, NotReady
from service.readiness import Readiness


@dataclass
class Part:
    unready_reason: str | None


def test_reason_of_the_first_part_that_is_not_ready_counts() -> None:
    readiness, parts = Readiness(lambda: False), [Part(None), Part("no model"), Part("no port")]
    for part in parts:
        readiness.require(part)
    error = readiness.error()
    assert isinstance(error, NotReady)
    assert (error.detail, error.retry_after_s) == ("no model", 10)
    parts[1].unready_reason = None
    assert getattr(readiness.error(), "detail", None) == "no port"
    assert not readiness.is_ready
    parts[2].unready_reason = None
    assert readiness.error() is None
    assert readiness.is_ready


@pytest.mark.parametrize("reason", [None, "no model"])
def test_worker_that_is_shutting_down_is_not_ready_whatever_its_parts(reason: str | None) -> None:
    readiness = Readiness(lambda: True)
    readiness.require(Part(reason))
    assert isinstance(readiness.error(), Draining)
