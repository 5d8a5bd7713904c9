"""Coordinator in the parent process: finds versions on disk, and lets all workers serve the same.

A change takes two steps. First every worker loads, verifies and warms up what is new, while it goes
on serving the old. When all of them have, they switch at the same moment. A version that any worker
cannot load is refused, and the old one goes on. A worker that is replaced begins with what the
others serve. A choice of the operator that needs a version is a proposal until that is served.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from limelight.artifact.store import ArtifactError
from service.repository.choices import Change, Choices, Proposal
from service.repository.memory_bound import MemoryBound, Models
from service.repository.plan import Plan, Report, State, key_of
from service.repository.rollout_watch import RolloutWatch
from service.repository.shared_json import SharedJson
from service.repository.version_policy import VersionPolicies
from service.repository.versions_on_disk import OnDisk, VersionsOnDisk

logger = logging.getLogger("limelight.repository")

_CHECK_S = 0.25
# Workers read the state every 0.25 s, so all of them know the moment before it comes.
SWITCH_AFTER_S = 0.75


class Coordinator:
    """Coordinator of the workers of one service.

    Args:
        root: folder of artefacts, or another source; see `find_models`.
        policies: versions to serve of each model.
        shared: memory that the workers read and report in.
        workers: number of slots for their reports.
        alive: returns the process IDs of the workers that run.
        poll_s: interval at which the disk is looked at; 0: only at the start.
        bound: bound of the memory of the models.
    """

    def __init__(
        self,
        root: Path,
        policies: VersionPolicies,
        shared: SharedJson,
        *,
        workers: int,
        alive: Callable[[], Iterable[int]],
        poll_s: float,
        bound: MemoryBound | None = None,
    ) -> None:
        self._versions = VersionsOnDisk(root)
        self._bound = bound or MemoryBound()
        self._shared = shared
        self.choices = Choices(policies)
        self._proposal: Proposal | None = None
        self._rollouts = RolloutWatch()
        self._slots = range(1, 1 + workers)
        self._alive = alive
        self._poll_s = poll_s
        # True when the models of the start were measured: until then, all of them are new.
        self._measured = False
        self._state = self._first_state()
        self._polled = time.monotonic()
        self._ended = threading.Event()
        self._lock = threading.RLock()

    @property
    def state(self) -> State:
        """The present state."""
        return self._state

    def start(self) -> None:
        """Follow the folder and the workers, in a thread, until `stop`."""
        threading.Thread(target=self._follow, name="limelight-repository", daemon=True).start()

    def stop(self) -> None:
        """End the thread after its present step."""
        self._ended.set()

    def step(self) -> None:
        """Activate what all workers have prepared, and look at the folder if it is time."""
        with self._lock:
            state = self._state
            if state.active.generation != state.target.generation:
                self._activate_if_prepared()
            else:
                reports = self._reports(state.active.generation)
                failed = state.active.generation == 1 and self._note_failures(reports)
                if not failed and self._all_reported(reports):
                    self._keep_bound(reports)
            if self._poll_s and time.monotonic() - self._polled >= self._poll_s:
                self._polled = time.monotonic()
                self._look()
            self._follow_rollouts()

    def change(self, change: Change) -> int:
        """Change the operator's choices, and return the generation with the result."""
        with self._lock:
            change(self.choices)
            return self._take_up()

    def propose(self, proposal: Proposal) -> int:
        """Make a change as soon as all workers serve what it needs, if that can be served.

        What was refused of it before is tried again. Return the generation with the result.
        """
        with self._lock:
            self._proposal = proposal
            again = [key for key in self._reasons() if proposal.needs(*key_of(key))]
            self._versions.allow(again)
            self._bound.forget(self._bound.left_out.keys() & again)
            return self._take_up()

    def withdraw(self) -> None:
        """Give up what was proposed and is not served yet."""
        with self._lock:
            self._proposal = None
            self._look()

    def set_log_level(self, level: str) -> None:
        """Let all workers log at this level, and those that will replace them."""
        with self._lock:
            self._write(replace(self._state, log_level=level))

    def defaults(self) -> set[str]:
        """Return the default models, as the workers report them; none if no worker has started."""
        return {report.default for report in self._alive_reports()}

    def asked(self) -> dict[str, dict[str, str]]:
        """Return the commands of the workers' clients, by ID."""
        return {
            id_: command
            for report in self._alive_reports()
            for id_, command in report.asked.items()
        }

    def answer(self, answers: dict[str, dict[str, Any]]) -> None:
        """Let the workers read these answers, and no others."""
        with self._lock:
            self._write(replace(self._state, answers=answers))

    def on_disk(self, name: str) -> list[str]:
        """Return the versions of a model on disk, newest first; none if it cannot be read."""
        with suppress(ArtifactError, OSError):
            return list(self._versions.find().get(name, {}))
        return []

    def _follow(self) -> None:
        while not self._ended.wait(_CHECK_S):
            try:
                self.step()
            except Exception:
                logger.exception("the model repository cannot be followed; it is tried again")

    def _first_state(self) -> State:
        try:
            self._versions.look()
        except ArtifactError as error:
            state = State(Plan(1), Plan(1), problem=str(error))
        else:
            usable = self._versions.usable()
            plan = Plan(1, self._fit(self.choices, usable))
            refused = self._reasons()
            problem = None if plan.models else "; ".join(refused.values()) or _unselected(usable)
            state = State(plan, plan, refused=refused, problem=problem)
        self._write(state)
        return state

    def _take_up(self) -> int:
        """Follow the choices, also to versions that were copied just now."""
        if not self._look(at_once=True):
            self._proposal = None
        self._follow_rollouts()
        return self._state.target.generation

    def _look(self, *, at_once: bool = False) -> bool:
        """Look at the disk, and let the workers prepare what changed; False if it cannot be read.

        With `at_once`, versions that were copied just now are prepared, too.
        """
        try:
            changed = self._versions.look(at_once=at_once)
        except (ArtifactError, OSError) as error:
            # A network file system that fails for a moment must not end a service.
            if self._state.active.models:
                logger.warning("the models that are served stay: %s", error)
            return False
        self._bound.forget(changed)
        served = {f"{name}/{version}" for (name, version), _ in self._state.target}
        usable = self._versions.usable(served)
        choices, models = self._chosen(usable)
        again = any(f"{name}/{version}" in changed for name in models for version in models[name])
        self._aim_at(models, choices.labels_now(), choices.select_unloaded(usable), again=again)
        self._settle()
        return True

    def _chosen(self, usable: OnDisk) -> tuple[Choices, Models]:
        """Return the choices that count, and the models to serve by them.

        They are those of the proposal as long as it can be served.
        """
        proposal = self._proposal
        if proposal is not None and proposal.is_met(usable):
            choices = proposal.changed(self.choices)
            if proposal.is_met(models := self._fit(choices, usable)):
                return choices, models
        self._proposal = None
        return self.choices, self._fit(self.choices, usable)

    def _settle(self) -> None:
        """Keep the change that was proposed, if all workers serve what it needs."""
        if self._proposal is not None and self._state.active == self._state.target:
            self._proposal.change(self.choices)
            self._proposal.kept = True
            self._proposal = None

    def _fit(self, choices: Choices, usable: OnDisk) -> Models:
        """Select what to serve, within the bound of the memory; the rest is refused."""
        sizes = self._versions.sizes()
        served = []
        if self._measured:
            served = [f"{name}/{version}" for (name, version), _ in self._state.active]
        before, kept = set(self._bound.left_out), choices.kept()
        while True:
            models = choices.select_all(usable)
            refused = self._bound.fit(models, sizes, served=served, kept=kept)
            if not refused:
                for key in self._bound.left_out.keys() - before:
                    logger.warning("%s is not served: %s", key, self._bound.left_out[key])
                return models
            for key, reason in refused.items():
                self._refuse(key, reason)
                name, version = key.split("/")
                usable[name] = {
                    each: usable[name][each] for each in usable[name] if each != version
                }

    def _refuse(self, key: str, reason: str) -> None:
        logger.error("%s is refused: %s", key, reason)
        self._versions.refuse(key, reason)

    def _reasons(self) -> dict[str, str]:
        return self._bound.left_out | self._versions.refused

    def _aim_at(
        self,
        models: Models,
        labels: dict[str, dict[str, str]],
        unloaded: list[str],
        *,
        again: bool,
    ) -> None:
        state, before = self._state, self._state.target
        refused = self._reasons()
        same = (_ordered(models), labels) == (_ordered(before.models), before.labels)
        if (same and not again) or not models:
            if (unloaded, refused) != (state.unloaded, state.refused):
                self._write(replace(state, unloaded=unloaded, refused=refused))
            return
        target = Plan(before.generation + 1, models, labels)
        logger.info("generation %d is prepared: %s", target.generation, _described(target))
        self._write(replace(state, target=target, unloaded=unloaded, refused=refused, problem=None))

    def _activate_if_prepared(self) -> None:
        target = self._state.target
        reports = self._reports(target.generation)
        if self._note_failures(reports):
            return
        if not self._all_reported(reports) or self._keep_bound(reports):
            return
        logger.info("generation %d is served: %s", target.generation, _described(target))
        since = time.monotonic() + SWITCH_AFTER_S
        self._write(replace(self._state, active=target, since=since))
        self._settle()

    def _all_reported(self, reports: list[Report]) -> bool:
        alive = set(self._alive())
        return bool(alive) and alive <= {report.pid for report in reports}

    def _note_failures(self, reports: list[Report]) -> bool:
        """Refuse the versions that a worker could not load, and return True if there are any."""
        failed = {key: reason for report in reports for key, reason in report.failed.items()}
        new = failed.keys() - self._versions.refused.keys()
        if not new:
            return False
        for key in sorted(new):
            self._refuse(key, failed[key])
        self._aim_again()
        return True

    def _keep_bound(self, reports: list[Report]) -> bool:
        """Note what the models take, and return True if that is too much: others are aimed at."""
        target = self._state.target
        exceeds = self._bound.note(reports, target)
        if exceeds:
            self._aim_again()
        self._measured = True
        return self._state.target != target

    def _aim_again(self) -> None:
        target = self._state.target
        self._look()
        state = self._state
        if state.target == target != state.active:
            # Nothing is left to aim at: what is served goes on.
            back = replace(state.active, generation=target.generation + 1)
            self._write(replace(state, target=back))

    def _follow_rollouts(self) -> None:
        """Note what the workers have counted, and serve what the end of a rollout leaves."""
        choices = self.choices
        if not choices.rollouts and all(each.ended for each in self._state.rollouts.values()):
            return
        before = dict(choices.rollouts), dict(choices.activated)
        state = self._state
        if self._proposal is not None:  # its plan may lack the version of a rollout that goes on
            state = replace(state, target=state.active)
        rollouts = self._rollouts.follow(state, choices, self._all_reports())
        if rollouts != self._state.rollouts:
            self._write(replace(self._state, rollouts=rollouts))
        if before != (choices.rollouts, choices.activated):
            self._look()

    def _reports(self, generation: int) -> list[Report]:
        reports = self._all_reports().values()
        return [report for report in reports if report.generation == generation]

    def _alive_reports(self) -> list[Report]:
        alive = set(self._alive())
        return [report for report in self._all_reports().values() if report.pid in alive]

    def _all_reports(self) -> dict[int, Report]:
        contents = ((slot, self._shared.read(slot)) for slot in self._slots)
        return {slot: Report.from_json(found) for slot, found in contents if found is not None}

    def _write(self, state: State) -> None:
        self._shared.write(0, state.to_json())
        self._state = state


def _ordered(models: Models) -> list[tuple[str, list[tuple[str, str]]]]:
    """Return models in a form whose comparison heeds the order of versions."""
    return [(name, list(versions.items())) for name, versions in models.items()]


def _unselected(found: OnDisk) -> str:
    there = "; ".join(f"{name} {', '.join(versions)}" for name, versions in found.items())
    return f"LIMELIGHT_VERSIONS selects none of the versions in LIMELIGHT_MODELS: {there}"


def _described(plan: Plan) -> str:
    return ", ".join(f"{name}/{version}" for (name, version), _ in plan) or "no model"
