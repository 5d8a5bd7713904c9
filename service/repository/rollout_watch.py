"""Watch over the rollouts in the parent process: sums what the workers count, and ends rollouts."""

import logging
from collections.abc import Mapping
from dataclasses import replace

from service.repository.choices import Choices
from service.repository.plan import Report, State
from service.repository.rollout import ROLLED_BACK, Rollout, RolloutProgress, Sums

logger = logging.getLogger("limelight.repository")


class _Total:
    """Sums of one rollout over all workers, those that have ended included."""

    def __init__(self) -> None:
        self._ended = Sums()
        self._latest: dict[int, tuple[int, Sums]] = {}
        self.judged = Sums()
        """Sums up to the last check of the limits."""
        self.promoted = ""
        """Reason to activate the challenger; empty if there is none yet."""

    def take(self, slot: int, pid: int, sums: Sums) -> None:
        """Take the newest sums of the worker `pid`; it counts from 0 if it is new in its slot."""
        before = self._latest.get(slot)
        if before is not None and before[0] != pid:
            self._ended += before[1]
        self._latest[slot] = pid, sums

    @property
    def sums(self) -> Sums:
        return sum((sums for _, sums in self._latest.values()), self._ended)


class RolloutWatch:
    """Watch over the rollouts of all models."""

    def __init__(self) -> None:
        self._totals: dict[float, _Total] = {}

    def follow(
        self, state: State, choices: Choices, reports: Mapping[int, Report]
    ) -> dict[str, RolloutProgress]:
        """Return the progress of every rollout by model, and change `choices` where one ends.

        `reports` are those of the workers, by slot.
        """
        found = {}
        for name, known in state.rollouts.items():
            replaced = not known.ended and name not in choices.rollouts
            found[name] = replace(known, ended="finished by an operator") if replaced else known
        for name, rollout in list(choices.rollouts.items()):
            total = self._totals.setdefault(rollout.started, _Total())
            problems = []
            for slot, report in reports.items():
                tally = report.rollouts.get(name)
                if tally is not None and tally.started == rollout.started:
                    total.take(slot, report.pid, tally.sums)
                    problems.append(tally.problem)
            reason = self._reason_to_end(
                name, rollout, total, state, choices, max(problems, default="")
            )
            if reason:
                del choices.rollouts[name]
                logger.warning(
                    "the %s of %s/%s has ended: %s", rollout.kind, name, rollout.version, reason
                )
            found[name] = RolloutProgress(rollout, total.sums, reason)
        running = {rollout.started for rollout in choices.rollouts.values()}
        self._totals = {key: total for key, total in self._totals.items() if key in running}
        return found

    def _reason_to_end(
        self,
        name: str,
        rollout: Rollout,
        total: _Total,
        state: State,
        choices: Choices,
        problem: str,
    ) -> str:
        """Return why a rollout ends now; empty if it goes on."""
        active = next(iter(state.active.models.get(name, {})), None)
        if active == rollout.version and total.promoted:
            return total.promoted
        if rollout.version not in state.target.models.get(name, {}):
            if total.promoted:
                choices.activated[name] = rollout.champion
            refused = state.refused.get(f"{name}/{rollout.version}")
            return f"refused: {refused}" if refused else "the version is no longer there"
        if active != rollout.champion:
            return f"version {active} became active"
        if problem or total.promoted:
            return problem
        latest = total.sums - total.judged
        if breach := rollout.breach(latest):
            return f"{ROLLED_BACK}: {breach}"
        if rollout.is_judged(latest):
            if rollout.promote:
                total.promoted = f"promoted after {latest.answers(rollout.kind):,} answers"
                choices.promote(name, rollout)
            # Each check looks at new answers: a fault that comes late is not lost among the old.
            total.judged = total.sums
        return ""
