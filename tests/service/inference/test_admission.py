"""Admission to the queue: what is rejected first, and what another caller's flood changes."""

import time
from contextlib import ExitStack
from typing import Any

import pytest

from limelight.errors import DeadlineExceeded, Overloaded
from service.caller import CRITICALITIES, Caller
from service.inference.admission import Admission
from service.request_context import RequestContext


def caller(name: str, share: float = 1.0) -> Caller:
    return Caller(name=name, scopes=frozenset({"predict", "explain"}), share=share)


def context(name: str = "", *, left_s: float = 1e9, share: float = 1.0) -> RequestContext:
    made = RequestContext(deadline=time.perf_counter() + left_s)
    if name:
        made.caller = caller(name, share)
    return made


def admitted(
    admission: Admission, held: ExitStack, most: int, given: RequestContext, **options: Any
) -> int:
    """Admit images of one request after the other until one is rejected; return their number."""
    for number in range(most):
        if admission.rejection(given, **options) is not None:
            return number
        held.enter_context(admission.admit(given, **options))
    return most


def test_queue_fills_by_criticality_and_priority() -> None:
    found = {}
    for criticality in CRITICALITIES:
        for low_priority in (False, True):
            with ExitStack() as held:
                given = context()
                given.criticality = criticality
                found[criticality, low_priority] = admitted(
                    Admission(80), held, 200, given, low_priority=low_priority
                )
    assert found == {
        ("sheddable", True): 20,
        ("sheddable", False): 40,
        ("default", True): 40,
        ("default", False): 80,
        ("critical", True): 50,
        ("critical", False): 100,
    }


def test_critical_request_is_admitted_when_the_queue_is_full_for_the_others() -> None:
    admission = Admission(8)
    with ExitStack() as held:
        assert admitted(admission, held, 20, context()) == 8
        for criticality in CRITICALITIES:
            given = context()
            given.criticality = criticality
            assert (admission.rejection(given) is None) == (criticality == "critical")


def test_critical_request_has_no_more_time_than_its_deadline() -> None:
    admission = Admission(100)
    admission.observe_batch(1, 0.1)
    with ExitStack() as held:
        admitted(admission, held, 10, context())
        late = context(left_s=1.0)
        late.criticality = "critical"
        assert isinstance(admission.rejection(late), DeadlineExceeded)


def test_one_caller_cannot_fill_the_queue_and_the_next_one_has_room() -> None:
    admission = Admission(900)
    with ExitStack() as held:
        assert admitted(admission, held, 2000, context("flood")) == 800
        rejected = admission.rejection(context("flood"))
        assert isinstance(rejected, Overloaded)
        assert "800 images of this API key" in rejected.detail
        assert admitted(admission, held, 2000, context("second")) >= 80
        assert admission.rejection(context("third")) is None
        assert admission.admitted < 900
    assert admission.admitted == 0


def test_caller_with_a_larger_share_gets_more_of_the_queue() -> None:
    found = []
    for share in (0.1, 1.0, 10.0):
        with ExitStack() as held:
            found.append(admitted(Admission(900), held, 2000, context("shop", share=share)))
    assert found == [400, 800, 889]


def test_queue_without_keys_belongs_to_everybody() -> None:
    with ExitStack() as held:
        assert admitted(Admission(900), held, 2000, context()) == 900


def test_expected_wait_counts_a_flood_of_another_caller_by_its_share() -> None:
    admission = Admission(4096)
    admission.observe_batch(100, 1.0)  # 10 ms an image
    with ExitStack() as held:
        admitted(admission, held, 500, context("flood"))
        # Of the 500 images, one or two are served before that of the neighbour.
        assert admission.rejection(context("neighbour", left_s=0.05)) is None
        assert isinstance(admission.rejection(context("flood", left_s=0.05)), DeadlineExceeded)
        favoured = context("neighbour", left_s=0.05, share=0.1)
        assert isinstance(admission.rejection(favoured), DeadlineExceeded)


def test_predictions_do_not_wait_for_background_work_and_it_waits_for_them() -> None:
    admission = Admission(4096)
    admission.observe_batch(100, 1.0)
    admission.observe_batch(100, 2.0, background=True)
    with admission.admit(context(), images=500, background=True, low_priority=True):
        assert admission.rejection(context(left_s=0.05)) is None
        with admission.admit(context(), images=100):
            # 10 images of 20 ms, after 100 of 10 ms; low priority allows half of the time.
            for left_s, fits in ((24.0, True), (20.0, False)):
                rejected = admission.rejection(
                    context(left_s=left_s), images=10, background=True, low_priority=True
                )
                assert (rejected is None) == fits
    assert admission.admitted == 0


@pytest.mark.parametrize("share", [0.01, 100.0])
def test_every_caller_gets_into_an_empty_queue(share: float) -> None:
    assert Admission(1).rejection(context("shop", share=share)) is None
    assert Admission(4096).rejection(context("shop", share=share), images=32) is None
