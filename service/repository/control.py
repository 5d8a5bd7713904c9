"""Control of the model repository by an operator: activate, roll back, label, roll out, unload."""

import logging
import re
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

from service.repository.choices import Change, Choices, Proposal
from service.repository.coordinator import Coordinator
from service.repository.plan import key_of, repository_index
from service.repository.rollout import Rollout
from service.telemetry.logs import LEVELS, set_level

logger = logging.getLogger("limelight.repository")

LATEST = "latest"
_LABEL = re.compile(r"[a-z][a-z0-9_-]{0,30}")
_LOOK_S = 0.05
P = ParamSpec("P")
R = TypeVar("R")


class RepositoryError(Exception):
    """A command cannot be carried out; the message says why and what to do.

    Attributes:
        found: False if what it names does not exist.
    """

    def __init__(self, message: str, *, found: bool = True) -> None:
        super().__init__(message)
        self.found = found


def _in_turn(
    command: Callable[Concatenate["Control", P], R],
) -> Callable[Concatenate["Control", P], R]:
    """Let a command wait for the one before it: each leaves what the next one begins with."""

    @wraps(command)
    def waiting(control: "Control", /, *args: P.args, **options: P.kwargs) -> R:
        with control.turn:
            return command(control, *args, **options)

    return waiting


class Control:
    """Commands on the models of a service. Each waits until all workers have followed.

    Commands that come at the same time are carried out one after the other. What only reads does
    not wait.

    Args:
        coordinator: coordinator of the workers.
        timeout_s: longest time to wait.
    """

    def __init__(self, coordinator: Coordinator, *, timeout_s: float = 120.0) -> None:
        self._coordinator = coordinator
        self._timeout_s = timeout_s
        self.turn = threading.RLock()
        """Held by the command that is in progress."""

    def describe(self) -> dict[str, Any]:
        """Return what is served, prepared and refused."""
        state, choices = self._coordinator.state, self._coordinator.choices
        return {
            "generation": state.active.generation,
            "models": [
                {
                    "name": name,
                    "active": next(iter(versions)),
                    "versions": list(versions),
                    "labels": state.active.labels.get(name, {}),
                    "chosen": name in choices.activated,
                    "rollout": rollout.describe()
                    if (rollout := state.rollouts.get(name))
                    else None,
                }
                for name, versions in state.active.models.items()
            ],
            "prepares": state.active.generation != state.target.generation,
            "unloaded": sorted(choices.unloaded),
            "refused": state.refused,
            "log_level": state.log_level,
        }

    def index(self) -> list[dict[str, str]]:
        """Return the repository index; see `repository_index`."""
        state = self._coordinator.state
        refused = {key_of(each): reason for each, reason in state.refused.items()}
        ready = (key for key, _ in state.active)
        return repository_index(ready, refused, map(key_of, state.unloaded))

    @_in_turn
    def activate(self, name: str, version: str) -> None:
        """Let a version answer requests that name none; `latest` follows the policy again.

        Raises:
            RepositoryError: it does not exist or cannot be loaded; the old one goes on.
        """
        before = self._active(name)

        def change(choices: Choices) -> None:
            choices.unloaded.discard(name)
            choices.activated.pop(name, None)
            if version != LATEST:
                choices.activated[name] = version

        self._propose(change, name, None if version == LATEST else version)
        if before not in (None, self._active(name)):
            self._coordinator.choices.before[name] = str(before)

    @_in_turn
    def rollback(self, name: str) -> str:
        """Activate the version that was active before, and return it.

        Raises:
            RepositoryError: there was none, or it cannot be loaded.
        """
        active = self._active(name)
        before = self._coordinator.choices.before.get(name) or self._next_older(name, active)
        if active is None or before is None:
            raise RepositoryError(
                f"{name} has no version to go back to: activate one by its number", found=False
            )
        self.activate(name, before)
        return before

    @_in_turn
    def load(self, name: str) -> None:
        """Serve a model that was unloaded, and look for new versions of it now.

        Raises:
            RepositoryError: no version of it can be served.
        """
        self._propose(lambda choices: choices.unloaded.discard(name), name)

    @_in_turn
    def unload(self, name: str) -> None:
        """Stop serving a model, until it is loaded again.

        Raises:
            RepositoryError: it is not served, or it is the only one or the default one.
        """
        if self._active(name) is None:
            raise RepositoryError(f"{name} is not served: there is nothing to unload", found=False)
        if len(self._coordinator.state.active.models) == 1:
            raise RepositoryError(f"{name} is the only model: stop the service instead")
        if not (defaults := self._coordinator.defaults()):
            raise RepositoryError("the workers are starting: try again when the service is ready")
        if name in defaults:
            raise RepositoryError(
                f"{name} is the default model, which answers requests that name none: start the "
                "service with LIMELIGHT_DEFAULT_MODEL set to another model first"
            )
        self._apply(lambda choices: choices.unloaded.add(name))

    @_in_turn
    def label(self, name: str, label: str, version: str) -> None:
        """Give a version a label by which requests can name it; it leaves the version it had.

        Raises:
            RepositoryError: the label is no name, or the version cannot be served; a label that is
                in use stays where it is.
        """
        if not _LABEL.fullmatch(label) or label == LATEST:
            raise RepositoryError(
                f"{label!r:.50} is no label: use up to 31 lower-case letters, digits, - and _"
            )

        def change(choices: Choices) -> None:
            choices.labels.setdefault(name, {})[label] = version

        self._propose(change, name, version)

    @_in_turn
    def remove_label(self, name: str, label: str) -> None:
        """Remove a label; the version that has it leaves, unless it is served for another reason.

        Raises:
            RepositoryError: the model has no such label.
        """
        labels = self._coordinator.choices.labels.get(name, {})
        if label not in labels:
            there = ", ".join(labels) or "none"
            raise RepositoryError(
                f"{name} has no label {label:.50} (there are: {there})", found=False
            )
        self._apply(lambda choices: choices.labels[name].pop(label))

    @_in_turn
    def set_log_level(self, level: str) -> None:
        """Log at this level in all processes, until the service ends.

        Raises:
            RepositoryError: there is no such level.
        """
        if level not in LEVELS:
            raise RepositoryError(f"{level!r:.50} is no log level: use one of {', '.join(LEVELS)}")
        self._coordinator.set_log_level(level)
        set_level(level)
        logger.warning("the log level is %s", level)

    @_in_turn
    def start(self, name: str, rollout: Rollout) -> None:
        """Begin a canary or a shadow; it replaces one of the same model that is in progress.

        Raises:
            RepositoryError: the version cannot be served, or is the active one.
        """
        active, version = self._active(name), rollout.version
        if active is None:
            raise RepositoryError(self._why_not(name, version), found=False)
        if version == active:
            raise RepositoryError(
                f"{name} {version} is active already: activate the version to compare it with first"
            )
        started = replace(rollout, champion=active, started=time.time())

        def change(choices: Choices) -> None:
            choices.rollouts[name] = started

        self._propose(change, name, version)

    @_in_turn
    def finish(self, name: str) -> None:
        """End the canary or the shadow of a model; the active version answers everybody.

        Raises:
            RepositoryError: there is none in progress.
        """
        if name not in self._coordinator.choices.rollouts:
            raise RepositoryError(f"{name} has no canary or shadow in progress", found=False)

        self._apply(lambda choices: choices.rollouts.pop(name, None))

    def _apply(self, change: Change) -> None:
        """Make a change that cannot fail."""
        self._wait(self._coordinator.change(change))

    def _propose(self, change: Change, name: str, version: str | None = None) -> None:
        """Make a change for which a model must be served, or one version of it.

        Raises:
            RepositoryError: it cannot be served, and nothing has changed.
        """
        proposal = Proposal(change, name, version)
        try:
            self._wait(self._coordinator.propose(proposal))
        except RepositoryError:
            self._coordinator.withdraw()
            raise
        if not proposal.kept:
            raise RepositoryError(self._why_not(name, version), found=False)

    def _wait(self, generation: int) -> None:
        end = time.monotonic() + self._timeout_s
        while True:
            state = self._coordinator.state
            settled = state.active.generation == state.target.generation
            if settled and state.active.generation >= generation and time.monotonic() > state.since:
                return
            if time.monotonic() > end:
                raise RepositoryError(
                    f"the workers have not followed within {self._timeout_s:g} s: see the log"
                )
            time.sleep(_LOOK_S)

    def _served(self, name: str) -> list[str]:
        return list(self._coordinator.state.active.models.get(name, {}))

    def _active(self, name: str) -> str | None:
        return next(iter(self._served(name)), None)

    def _next_older(self, name: str, active: str | None) -> str | None:
        if active is None:
            return None
        older = [each for each in self._coordinator.on_disk(name) if int(each) < int(active)]
        return max(older, key=int, default=None)

    def _why_not(self, name: str, version: str | None) -> str:
        """Return the reason why a model is not served, or not in this version."""
        refused = self._coordinator.state.refused
        versions = self._coordinator.on_disk(name)
        if not versions:
            return f"there is no model {name} in LIMELIGHT_MODELS: check the name"
        there = f"(there are: {', '.join(versions)})"
        if version is not None and version not in versions:
            return f"{name} has no version {version:.20} on disk {there}"
        for each in versions if version is None else [version]:
            if (reason := refused.get(f"{name}/{each}")) is not None:
                return f"{name} {each} is refused: {reason}"
        if name in self._coordinator.choices.unloaded:
            return f"{name} is unloaded: load it first"
        if version is None:
            return f"LIMELIGHT_VERSIONS selects no version of {name} {there}"
        return f"{name} {version} is not served: see the log"
