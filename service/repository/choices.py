"""Choices of the operator, which go before the version policies until the service ends."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from service.repository.version_policy import VersionPolicies, VersionPolicy


@dataclass(slots=True)
class Choices:
    """Versions that were activated, models that were unloaded, and labels, by model."""

    policies: VersionPolicies
    activated: dict[str, str] = field(default_factory=dict)
    unloaded: set[str] = field(default_factory=set)
    labels: dict[str, dict[str, str]] = field(default_factory=dict)
    """Model -> label -> version."""

    def select(self, name: str, versions: Mapping[str, str]) -> dict[str, str]:
        """Select what to serve of `versions`, newest first; the first one is the active version.

        A version that was activated stays active when a newer one appears. Labelled versions are
        served, too. What is no longer there is left out.
        """
        if name in self.unloaded:
            return {}
        policy = self.policies.of(name)
        chosen = policy.select(versions)
        activated = self.activated.get(name)
        if activated is not None and activated in versions:
            others = {} if policy == VersionPolicy() else chosen
            chosen = {activated: versions[activated]} | others
        labelled = set(self.labels.get(name, {}).values())
        return chosen | {each: versions[each] for each in versions if each in labelled}

    def kept(self) -> set[str]:
        """Return the versions, as NAME/VERSION, that stay even if nobody uses them."""
        return {
            f"{name}/{version}"
            for name, labels in self.labels.items()
            for version in labels.values()
        }
