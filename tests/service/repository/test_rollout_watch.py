"""Ends of rollouts, decided by the coordinator from what workers report."""

from dataclasses import replace
from pathlib import Path

import pytest

from service.repository.control import Control, RepositoryError
from service.repository.plan import Report
from service.repository.rollout import Rollout, Sums, Tally
from tests.service.repository.test_coordinator import FIRST, SECOND, Bench
from tests.serving_kit import write_artifact

ROLLOUT = Rollout(
    kind="canary",
    version="2",
    share=0.1,
    min_requests=10,
    max_errors=0.1,
    champion="1",
    started=5.0,
)


class RolloutBench(Bench):
    """Bench with the versions 1, 2 and 3, of which 1 is active."""

    def __init__(self, root: Path) -> None:
        for version in ("1", "2", "3"):
            write_artifact(root, version=version)
        super().__init__(root, policies="specific:1")
        self.tallies: dict[int, Tally] = {}
        self.report(FIRST, SECOND)

    def report(
        self, *pids: int, failed: dict[str, str] | None = None, memory: dict[str, int] | None = None
    ) -> None:
        generation = self.state.target.generation
        for slot, pid in zip((1, 2), self.alive, strict=True):
            if pid in pids:
                rollouts = {"colours": self.tallies[pid]} if pid in self.tallies else {}
                found = Report(pid, generation, failed or {}, rollouts, memory or {})
                self.shared.write(slot, found.to_json())

    def begin(self, rollout: Rollout = ROLLOUT) -> None:
        self.coordinator.change(lambda choices: choices.rollouts.update(colours=rollout))
        self.settle()

    def settle(self) -> None:
        """Let the workers prepare what is planned."""
        for _ in range(3):
            self.report(*self.alive)
            self.step()

    def count(self, pid: int, *, started: float = 5.0, **sums: int) -> None:
        self.tallies[pid] = Tally(started, Sums(**sums))
        self.report(*self.alive)
        self.step()

    @property
    def sums(self) -> Sums:
        return self.state.rollouts["colours"].sums

    @property
    def ended(self) -> str:
        return self.state.rollouts["colours"].ended


@pytest.fixture
def bench(tmp_path: Path) -> RolloutBench:
    bench = RolloutBench(tmp_path)
    bench.begin()
    return bench


def test_challenger_is_served_before_requests_go_to_it(bench: RolloutBench) -> None:
    assert bench.active() == {"colours": ["1", "2"]}
    assert bench.state.rollouts["colours"].rollout == ROLLOUT
    assert bench.ended == ""


def test_sums_are_those_of_all_workers_and_of_those_that_have_ended(bench: RolloutBench) -> None:
    bench.count(FIRST, challenger_requests=3)
    bench.count(SECOND, challenger_requests=4)
    bench.count(SECOND, challenger_requests=5)
    assert bench.sums == Sums(challenger_requests=8)
    bench.alive = [FIRST, 103]
    bench.count(103, challenger_requests=1)
    assert bench.sums == Sums(challenger_requests=9)
    bench.count(FIRST, started=4.0, challenger_requests=100)  # of an earlier rollout
    assert bench.sums == Sums(challenger_requests=9)


def test_challenger_over_a_limit_is_rolled_back_and_unloaded(bench: RolloutBench) -> None:
    bench.count(FIRST, challenger_requests=9, challenger_errors=9)
    assert bench.ended == ""
    bench.count(SECOND, challenger_requests=1)
    assert bench.ended.startswith("rolled back: 90.00% of 10 answers failed")
    assert bench.target() == {"colours": ["1"]}
    bench.settle()
    assert bench.active() == {"colours": ["1"]}
    assert bench.sums == Sums(challenger_requests=10, challenger_errors=9)  # still shown


def test_fault_that_comes_late_is_not_lost_among_old_answers(bench: RolloutBench) -> None:
    bench.count(FIRST, challenger_requests=1000)
    bench.count(FIRST, challenger_requests=1009, challenger_errors=9)
    assert bench.ended == ""
    bench.count(FIRST, challenger_requests=1010, challenger_errors=9)
    assert bench.ended.startswith("rolled back")


def test_challenger_is_promoted_only_if_asked_for(bench: RolloutBench) -> None:
    bench.count(FIRST, challenger_requests=1000)
    assert bench.ended == ""
    assert bench.target() == {"colours": ["1", "2"]}


def test_promoted_challenger_keeps_its_share_until_it_is_active(tmp_path: Path) -> None:
    bench = RolloutBench(tmp_path)
    bench.begin(replace(ROLLOUT, promote=True))
    bench.count(FIRST, challenger_requests=10)
    assert bench.ended == ""
    assert bench.target() == {"colours": ["2", "1"]}
    bench.settle()
    assert bench.active() == {"colours": ["2", "1"]}
    assert bench.ended == "promoted after 10 answers"
    assert bench.coordinator.choices.before == {"colours": "1"}


def test_refused_challenger_ends_the_rollout(tmp_path: Path) -> None:
    bench = RolloutBench(tmp_path)
    bench.coordinator.change(lambda choices: choices.rollouts.update(colours=ROLLOUT))
    bench.report(FIRST, failed={"colours/2": "damaged"})
    bench.step()
    assert bench.ended == "refused: damaged"
    bench.settle()
    assert bench.active() == {"colours": ["1"]}


def test_challenger_that_fails_in_a_new_worker_while_it_is_promoted_leaves_the_champion(
    tmp_path: Path,
) -> None:
    bench = RolloutBench(tmp_path)
    bench.begin(replace(ROLLOUT, promote=True))
    bench.count(FIRST, challenger_requests=10)
    bench.report(SECOND, failed={"colours/2": "damaged"})
    bench.step()
    assert bench.ended == "refused: damaged"
    bench.settle()
    assert bench.active() == {"colours": ["1"]}


@pytest.mark.parametrize(
    ("version", "reason"), [("2", "version 2 became active"), ("3", "version 3 became active")]
)
def test_another_active_version_ends_the_rollout(
    bench: RolloutBench, version: str, reason: str
) -> None:
    bench.coordinator.change(lambda choices: choices.activated.update(colours=version))
    bench.settle()
    assert bench.ended == reason


def test_removed_challenger_ends_the_rollout(bench: RolloutBench) -> None:
    (bench.root / "colours" / "2").rename(bench.root.parent / "elsewhere")
    bench.step()
    bench.step()
    assert bench.ended == "the version is no longer there"


def test_problem_of_a_worker_ends_the_rollout(bench: RolloutBench) -> None:
    bench.tallies[SECOND] = Tally(5.0, problem="the versions prepare images differently")
    bench.report(FIRST, SECOND)
    bench.step()
    assert bench.ended == "the versions prepare images differently"


def test_operator_finishes_and_replaces_rollouts(bench: RolloutBench) -> None:
    bench.count(FIRST, challenger_requests=3)
    bench.begin(replace(ROLLOUT, share=0.5, started=6.0))
    assert bench.ended == ""
    assert bench.sums == Sums()
    bench.coordinator.change(lambda choices: choices.rollouts.clear())
    assert bench.ended == "finished by an operator"


@pytest.mark.parametrize(
    ("name", "version", "message"),
    [
        ("colours", "9", r"has no version 9 on disk \(there are: 3, 2, 1\)"),
        ("colours", "1", "is active already"),
        ("other", "1", "there is no model other"),
    ],
)
def test_rollout_of_no_other_version_is_refused(
    bench: RolloutBench, name: str, version: str, message: str
) -> None:
    control = Control(bench.coordinator)
    with pytest.raises(RepositoryError, match=message):
        control.start(name, replace(ROLLOUT, version=version))
    assert bench.ended == ""


def test_finish_without_a_rollout_is_an_error(bench: RolloutBench) -> None:
    with pytest.raises(RepositoryError, match="no canary or shadow in progress"):
        Control(bench.coordinator).finish("other")
