"""Choices of the operator, which go before the version policies until the service ends."""

from collections.abc import Mapping
from dataclasses import dataclass, field

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
