"""Limits of a rollout: parameters, and when a challenger exceeds them."""

from dataclasses import asdict, replace

import pytest

from service.repository.rollout import Rollout, RolloutProgress, Sums, Tally

CANARY = Rollout(
    kind="canary",
    version="2",
    share=0.1,
    min_requests=100,
    max_errors=0.01,
    max_latency_ratio=1.5,
)
SHADOW = Rollout(
    kind="shadow", version="2", share=1.0, min_requests=100, max_errors=0.01, max_disagreement=0.05
)
GOOD = Sums(
    champion_requests=1000,
    champion_errors=10,
    champion_seconds=9.9,
    challenger_requests=100,
    challenger_errors=1,
    challenger_seconds=0.99,
)


def test_parameters_are_parsed() -> None:
    query = {"kind": "canary", "version": "7", "share": "0.25", "promote": "true"}
    limits = {"min_requests": "50", "max_errors": "0.01", "max_latency_ratio": "1.5"}
    assert Rollout.parse(query | limits) == Rollout(
        kind="canary",
        version="7",
        share=0.25,
        promote=True,
        min_requests=50,
        max_errors=0.01,
        max_latency_ratio=1.5,
    )
    assert Rollout.parse({"kind": "shadow", "version": "7"}).share == 1.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "blue"}, "must be canary or shadow"),
        ({"version": "stable"}, "must be a number on disk"),
        ({"share": "0"}, "more than 0"),
        ({"share": "1.1"}, "from 0 to 1"),
        ({"share": "nan"}, "from 0 to 1"),
        ({"max_latency_ratio": "inf"}, "must be a number"),
        ({"min_requests": "0"}, "1 to 999999999"),
        ({"promote": "yes"}, "true or false"),
        ({"max_disagreement": "0.1"}, "a canary's answers are not compared"),
        ({"kind": "shadow", "max_latency_ratio": "2"}, "waits for idle time"),
        ({"max_latency_ratio": "2", "share": "1"}, "share below 1"),
    ],
)
def test_wrong_parameters_are_refused(changes: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Rollout.parse({"kind": "canary", "version": "7", "share": "0.1"} | changes)


def test_canary_within_its_limits_goes_on() -> None:
    assert CANARY.breach(GOOD) is None
    assert CANARY.is_judged(GOOD)


def test_limits_wait_for_the_minimum_of_requests() -> None:
    few = replace(GOOD, challenger_requests=99, challenger_errors=99)
    assert CANARY.breach(few) is None
    assert not CANARY.is_judged(few)
    # The latency also needs as many answers of the champion; the errors do not.
    slow = replace(GOOD, challenger_seconds=99.0)
    assert CANARY.breach(replace(slow, champion_requests=99)) is None
    assert not CANARY.is_judged(replace(slow, champion_requests=99))
    assert CANARY.breach(replace(slow, champion_requests=99, challenger_errors=50)) is not None


def test_errors_count_above_those_of_the_champion() -> None:
    worse = replace(GOOD, challenger_errors=3)
    assert CANARY.breach(worse) == (
        "3.00% of 100 answers failed and 1.00% of the champion's (limit 0.01)"
    )
    # An overload of the whole service is not the challenger's fault.
    assert CANARY.breach(replace(worse, champion_errors=30)) is None


def test_latency_is_compared_with_the_champion() -> None:
    assert CANARY.breach(replace(GOOD, challenger_seconds=1.4)) is None
    assert CANARY.breach(replace(GOOD, challenger_seconds=1.6)) == (
        "the mean latency is 1.62 times the champion's (limit 1.5)"
    )


def test_shadow_is_judged_by_disagreement_and_failures() -> None:
    assert SHADOW.breach(Sums(compared=100, agreed=95, shed=10_000)) is None
    assert SHADOW.breach(Sums(compared=100, agreed=94)) == (
        "6.00% of 100 images got another class (limit 0.05)"
    )
    assert SHADOW.breach(Sums(compared=98, failed=2, agreed=98)) == (
        "2.00% of 100 answers failed (limit 0.01)"
    )
    assert SHADOW.breach(Sums(failed=100)) is not None
    assert not SHADOW.is_judged(Sums(shed=10_000))


def test_description_has_means_or_nothing() -> None:
    found = RolloutProgress(
        SHADOW, Sums(compared=4, agreed=3, differences=4, difference=0.2)
    ).describe()
    assert found["agreement"] == 0.75
    assert found["probability_difference"] == pytest.approx(0.05)
    assert found["map_correlation"] is None
    assert RolloutProgress(SHADOW).describe()["agreement"] is None
    assert RolloutProgress(CANARY).describe()["latency_ratio"] is None
    assert RolloutProgress(CANARY, GOOD).describe()["latency_ratio"] == pytest.approx(1.0)


def test_json_keeps_everything() -> None:
    progress = RolloutProgress(CANARY, GOOD, "finished")
    assert RolloutProgress.from_json(asdict(progress)) == progress
    tally = Tally(1.5, GOOD, "problem")
    assert Tally.from_json(asdict(tally)) == tally
    assert GOOD + GOOD - GOOD == GOOD
