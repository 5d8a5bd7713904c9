"""Choices of the operator, which go before the version policies until the service ends."""

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from service.repository.rollout import Rollout
from service.repository.version_policy import VersionPolicies, VersionPolicy


@dataclass(slots=True)
class Choices:
    """Versions that were activated, models that were unloaded, labels and rollouts, by model."""

    policies: VersionPolicies
    activated: dict[str, str] = field(default_factory=dict)
    unloaded: set[str] = field(default_factory=set)
    labels: dict[str, dict[str, str]] = field(default_factory=dict)
    """Model -> label -> version."""
    rollouts: dict[str, Rollout] = field(default_factory=dict)
    before: dict[str, str] = field(default_factory=dict)
    """Versions to roll back to: those that were active before the last change by hand."""

    def select(self, name: str, versions: Mapping[str, str]) -> dict[str, str]:
        """Select what to serve of `versions`, newest first; the first one is the active version.

        A version that was activated stays active when a newer one appears. Labelled versions and
        that of a rollout are served, too. What is no longer there is left out.
        """
        if name in self.unloaded:
            return {}
        policy = self.policies.of(name)
        chosen = policy.select(versions)
        activated = self.activated.get(name)
        if activated is not None and activated in versions:
            others = {} if policy == VersionPolicy() else chosen
            chosen = {activated: versions[activated]} | others
        also = set(self.labels.get(name, {}).values())
        if name in self.rollouts:
            also.add(self.rollouts[name].version)
        return chosen | {each: versions[each] for each in versions if each in also}

    def select_all(self, found: Mapping[str, Mapping[str, Path]]) -> dict[str, dict[str, str]]:
        """Select what to serve of all models on disk; models without a version are left out."""
        selected = {}
        for name, versions in sorted(found.items()):
            folders = {version: str(folder) for version, folder in versions.items()}
            if chosen := self.select(name, folders):
                selected[name] = chosen
        return selected

    def select_unloaded(self, found: Mapping[str, Mapping[str, Path]]) -> list[str]:
        """Return the versions, as NAME/VERSION, that would be served, had nobody unloaded them."""
        return [
            f"{name}/{version}"
            for name in sorted(self.unloaded & found.keys())
            for version in self.policies.of(name).select(found[name])
        ]

    def labels_now(self) -> dict[str, dict[str, str]]:
        """Return a copy of the labels, by model."""
        return {name: dict(labels) for name, labels in self.labels.items() if labels}

    def kept(self) -> set[str]:
        """Return the versions, as NAME/VERSION, that stay even if nobody uses them."""
        labelled = {
            (name, each) for name, labels in self.labels.items() for each in labels.values()
        }
        tried = {(name, rollout.version) for name, rollout in self.rollouts.items()}
        return {f"{name}/{version}" for name, version in labelled | tried}

    def promote(self, name: str, rollout: Rollout) -> None:
        """Activate the version of a rollout."""
        self.before[name] = rollout.champion
        self.activated[name] = rollout.version


Change = Callable[[Choices], object]
"""Change of the choices by a command."""


@dataclass(slots=True)
class Proposal:
    """Change that is made once what it needs is served. Until then the choices are as before.

    Attributes:
        name: model that must be served with the change.
        version: version of it that must be served; None: any.
        kept: True once the change was made.
    """

    change: Change
    name: str
    version: str | None
    kept: bool = False

    def changed(self, choices: Choices) -> Choices:
        """Return `choices` with the change; they stay as they are."""
        copied = deepcopy(choices)
        self.change(copied)
        return copied

    def needs(self, name: str, version: str) -> bool:
        """Return True if this is the version that must be served, or may be that."""
        return name == self.name and self.version in (None, version)

    def is_met(self, models: Mapping[str, Mapping[str, Any]]) -> bool:
        """Return True if `models` have what must be served."""
        return any(self.needs(self.name, version) for version in models.get(self.name, {}))
