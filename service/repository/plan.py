"""What the parent tells the workers to serve, and what they report back."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from service.repository.rollout import RolloutProgress, Tally

Key = tuple[str, str]
"""Name and version of a model."""


def repository_index(
    ready: Iterable[Key], refused: Mapping[Key, str], unloaded: Iterable[Key]
) -> list[dict[str, str]]:
    """Return the repository index of the Open Inference Protocol: versions, states and reasons."""
    reason = "unloaded by an operator: load the model again"
    not_served = {**refused, **{key: reason for key in unloaded if key not in refused}}
    rows = [(key, "READY", "") for key in ready]
    rows += [(key, "UNAVAILABLE", reason) for key, reason in not_served.items()]
    return [
        {"name": name, "version": version, "state": state, "reason": reason}
        for (name, version), state, reason in rows
    ]


def key_of(text: str) -> Key:
    """Return the name and the version in "NAME/VERSION"."""
    name, version = text.split("/", 1)
    return name, version


@dataclass(frozen=True, slots=True)
class Plan:
    """Models to serve, and the labels by which requests can name their versions.

    The first version of a model is active: it answers requests that name no version.
    """

    generation: int = 0
    models: dict[str, dict[str, str]] = field(default_factory=dict)
    """Name -> version -> folder."""
    labels: dict[str, dict[str, str]] = field(default_factory=dict)
    """Name -> label -> version. They change together with the versions that are served."""

    def __iter__(self) -> Iterator[tuple[Key, Path]]:
        """Return every version to serve, with its folder."""
        for name, versions in self.models.items():
            for version, folder in versions.items():
                yield (name, version), Path(folder)


@dataclass(frozen=True, slots=True)
class State:
    """State of the repository, which the parent writes.

    Attributes:
        active: what every worker serves from `since` on, a time of the monotonic clock.
        target: what the workers prepare; it becomes active when all of them have.
        refused: versions that failed, with the reason: "NAME/VERSION" -> reason.
        unloaded: versions that would be served, but for an operator who unloaded their model.
        problem: reason why there are no models at all; None if there are.
        log_level: level of the log of all processes.
        answers: answers to commands of the workers' clients, by ID; see `relay`.
        rollouts: the last rollout of each model.
    """

    active: Plan
    target: Plan
    since: float = 0.0
    refused: dict[str, str] = field(default_factory=dict)
    unloaded: list[str] = field(default_factory=list)
    problem: str | None = None
    log_level: str = "info"
    answers: dict[str, dict[str, Any]] = field(default_factory=dict)
    rollouts: dict[str, RolloutProgress] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the state as JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "State":
        """Return the state that `to_json` described."""
        plans = {name: Plan(**content[name]) for name in ("active", "target")}
        rollouts = {
            name: RolloutProgress.from_json(progress)
            for name, progress in content["rollouts"].items()
        }
        return cls(**(content | plans | {"rollouts": rollouts}))


@dataclass(frozen=True, slots=True)
class Report:
    """Report of a worker: the generation it has prepared, and the versions that failed.

    It also has what the worker has counted of the rollouts, by model.
    """

    pid: int
    generation: int
    failed: dict[str, str] = field(default_factory=dict)
    """ "NAME/VERSION" -> reason."""
    rollouts: dict[str, Tally] = field(default_factory=dict)
    memory: dict[str, int] = field(default_factory=dict)
    """ "NAME/VERSION" -> bytes that it added to the worker."""
    used: dict[str, float] = field(default_factory=dict)
    """ "NAME/VERSION" -> time of its last image, on the monotonic clock."""
    asked: dict[str, dict[str, str]] = field(default_factory=dict)
    """Commands of this worker's clients, by ID; see `relay`."""
    default: str = ""
    """Model that answers requests without the name of one."""

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "Report":
        """Return the report that `to_json` described."""
        rollouts = {name: Tally.from_json(tally) for name, tally in content["rollouts"].items()}
        return cls(**(content | {"rollouts": rollouts}))
