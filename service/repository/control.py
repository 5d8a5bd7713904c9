"""Control of the model repository by an operator: activate, roll back, label, roll out, unload."""

import logging
import re
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from service.repository.choices import Choices
from service.repository.coordinator import Coordinator
from service.repository.plan import State, key_of, repository_index
from service.repository.rollout import Rollout
from service.telemetry.logs import LEVELS, set_level

logger = logging.getLogger("limelight.repository")

LATEST = "latest"
_LABEL = re.compile(r"[a-z][a-z0-9_-]{0,30}")
_LOOK_S = 0.05


class RepositoryError(Exception):
    """A command cannot be carried out; the message says why and what to do.

    Attributes:
        found: False if what it names does not exist.
    """

    def __init__(self, message: str, *, found: bool = True) -> None:
        super().__init__(message)
        self.found = found


class Control:
    """Commands on the models of a service. Each waits until all workers have followed.

    Args:
        coordinator: coordinator of the workers.
        timeout_s: longest time to wait.
    """

    def __init__(self, coordinator: Coordinator, *, timeout_s: float = 120.0) -> None:
        self._coordinator = coordinator
        self._timeout_s = timeout_s

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
                    "labels": state.labels.get(name, {}),
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

    def activate(self, name: str, version: str) -> None:
        """Let a version answer requests that name none; `latest` follows the policy again.

        Raises:
            RepositoryError: it does not exist or cannot be loaded; the old one goes on.
        """
        before, choice = self._active(name), self._coordinator.choices.activated.get(name)

        def choose(choices: Choices) -> None:
            choices.unloaded.discard(name)
            choices.activated.pop(name, None)
            if version != LATEST:
                choices.activated[name] = version

        self._apply(choose, retry=name)
        if version not in (LATEST, found := self._active(name)):
            problem = self._why_not(name, version)
            self._apply(lambda choices: self._choose_again(choices, name, choice))
            raise RepositoryError(problem, found=False)
        if before not in (None, found):
            self._coordinator.choices.before[name] = str(before)

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

    def load(self, name: str) -> None:
        """Serve a model that was unloaded, and look for new versions of it now.

        Raises:
            RepositoryError: no version of it can be served.
        """
        self._apply(lambda choices: choices.unloaded.discard(name), retry=name)
        if self._active(name) is None:
            raise RepositoryError(self._why_not(name, ""), found=False)

    def unload(self, name: str) -> None:
        """Stop serving a model, until it is loaded again.

        Raises:
            RepositoryError: it is not served, or it is the only one.
        """
        if self._active(name) is None:
            raise RepositoryError(f"{name} is not served: there is nothing to unload", found=False)
        if len(self._coordinator.state.active.models) == 1:
            raise RepositoryError(f"{name} is the only model: stop the service instead")
        self._apply(lambda choices: choices.unloaded.add(name))

    def label(self, name: str, label: str, version: str | None) -> None:
        """Give a version a label by which requests can name it; None removes the label.

        Raises:
            RepositoryError: the label is no name, or the version cannot be served.
        """
        if not _LABEL.fullmatch(label) or label == LATEST:
            raise RepositoryError(
                f"{label!r:.50} is no label: use up to 31 lower-case letters, digits, - and _"
            )

        def choose(choices: Choices) -> None:
            labels = choices.labels.setdefault(name, {})
            labels.pop(label, None)
            if version is not None:
                labels[label] = version

        before = self._coordinator.choices.labels.get(name, {}).get(label)
        self._apply(choose, retry=name)
        if version is not None and version not in self._served(name):
            problem = self._why_not(name, version)
            self._apply(lambda choices: self._label_again(choices, name, label, before))
            raise RepositoryError(problem, found=False)

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

    def start(self, name: str, rollout: Rollout) -> None:
        """Begin a canary or a shadow; it replaces one of the same model that is in progress.

        Raises:
            RepositoryError: the version cannot be served, or is the active one.
        """
        active, version = self._active(name), rollout.version
        if active is None or version not in self._coordinator.on_disk(name):
            raise RepositoryError(self._why_not(name, version), found=False)
        if version == active:
            raise RepositoryError(
                f"{name} {version} is active already: activate the version to compare it with first"
            )
        rollout = replace(rollout, champion=active, started=time.time())

        def choose(choices: Choices) -> None:
            choices.rollouts[name] = rollout

        self._apply(choose, retry=name)
        progress = self._coordinator.state.rollouts[name]
        if progress.rollout == rollout and progress.ended and version not in self._served(name):
            raise RepositoryError(f"the {rollout.kind} has ended: {progress.ended}")

    def finish(self, name: str) -> None:
        """End the canary or the shadow of a model; the active version answers everybody.

        Raises:
            RepositoryError: there is none in progress.
        """
        if name not in self._coordinator.choices.rollouts:
            raise RepositoryError(f"{name} has no canary or shadow in progress", found=False)

        def choose(choices: Choices) -> None:
            choices.rollouts.pop(name, None)

        self._apply(choose)

    def _apply(self, choose: Callable[[Choices], None], *, retry: str | None = None) -> None:
        generation = self._coordinator.change(choose, retry=retry)
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

    def _choose_again(self, choices: Choices, name: str, version: str | None) -> None:
        choices.activated.pop(name, None)
        if version is not None:
            choices.activated[name] = version

    def _label_again(self, choices: Choices, name: str, label: str, version: str | None) -> None:
        choices.labels[name].pop(label, None)
        if version is not None:
            choices.labels[name][label] = version

    def _served(self, name: str) -> list[str]:
        return list(self._coordinator.state.active.models.get(name, {}))

    def _active(self, name: str) -> str | None:
        return next(iter(self._served(name)), None)

    def _next_older(self, name: str, active: str | None) -> str | None:
        if active is None:
            return None
        older = [each for each in self._coordinator.on_disk(name) if int(each) < int(active)]
        return max(older, key=int, default=None)

    def _why_not(self, name: str, version: str) -> str:
        state: State = self._coordinator.state
        reasons = [
            reason
            for key, reason in state.refused.items()
            if key == f"{name}/{version}" or (not version and key.startswith(f"{name}/"))
        ]
        if reasons:
            return f"{name} {version} is refused: {reasons[0]}"
        there = ", ".join(self._coordinator.on_disk(name)) or "none"
        return f"{name} has no version {version} on disk (there are: {there})"
