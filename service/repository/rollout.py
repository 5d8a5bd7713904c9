"""Rollout of a version as a canary or a shadow: what is counted of it, and its limits."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, get_args

Kind = Literal["canary", "shadow"]
"""A canary answers a share of the requests. A shadow answers nobody: its answers are compared."""
ROLLED_BACK = "rolled back"
"""Beginning of the reason why a rollout ended, if the challenger exceeded a limit."""
_NUMBERS = ("share", "max_errors", "max_latency_ratio", "max_disagreement")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """Rollout of the version `version` of a model, the challenger.

    Attributes:
        share: part of the clients (canary) or of the requests (shadow), more than 0, at most 1.
        promote: activate the challenger once it has kept to the limits.
        min_requests: answers after which the limits are checked, and again after as many more.
        max_errors: most failed answers, as a part of all, above those of the champion.
        max_latency_ratio: most mean latency beside the champion's; of a canary only.
        max_disagreement: most images with another class than the champion's; of a shadow only.
        champion: version that was active when the rollout began.
        started: Unix time of its start, which tells it from an earlier rollout.
    """

    kind: Kind
    version: str
    share: float
    promote: bool = False
    min_requests: int = 1000
    max_errors: float | None = None
    max_latency_ratio: float | None = None
    max_disagreement: float | None = None
    champion: str = ""
    started: float = 0.0

    @classmethod
    def parse(cls, query: Mapping[str, str]) -> "Rollout":
        """Parse the parameters of a request to the management port, which are in `PARAMETERS`.

        Raises:
            ValueError: one of them is missing or out of range.
        """
        kind, version = query.get("kind"), query.get("version", "")
        if kind not in get_args(Kind):
            raise ValueError(f"kind is {kind!r:.50}, and must be canary or shadow")
        if not (version.isascii() and version.isdigit() and len(version) < 10):
            raise ValueError(f"version is {version!r:.50}, and must be a number on disk")
        values = {name: _number(name, query[name]) for name in _NUMBERS if name in query}
        promote, least = query.get("promote", "false"), query.get("min_requests", "1000")
        if promote not in ("true", "false"):
            raise ValueError(f"promote is {promote!r:.50}, and must be true or false")
        if not (least.isascii() and least.isdigit() and 0 < int(least[:10]) < 10**9):
            raise ValueError(f"min_requests is {least!r:.50}, and must be 1 to 999999999")
        made = cls(
            kind="canary" if kind == "canary" else "shadow",
            version=version,
            promote=promote == "true",
            min_requests=int(least),
            share=values.get("share", 1.0 if kind == "shadow" else 0.1),
            max_errors=values.get("max_errors"),
            max_latency_ratio=values.get("max_latency_ratio"),
            max_disagreement=values.get("max_disagreement"),
        )
        made._check()
        return made

    def _check(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(f"share is {self.share:g}, and must be more than 0 and at most 1")
        if self.kind == "canary" and self.max_disagreement is not None:
            raise ValueError(
                "a canary's answers are not compared: use max_disagreement in a shadow"
            )
        if self.kind == "shadow" and self.max_latency_ratio is not None:
            raise ValueError("a shadow waits for idle time: use max_latency_ratio in a canary")
        if self.max_latency_ratio is not None and self.share == 1:
            raise ValueError("max_latency_ratio compares with the champion: use a share below 1")

    def breach(self, sums: "Sums") -> str | None:
        """Return which limit the challenger exceeds; None if none, or there are too few answers."""
        answers = sums.answers(self.kind)
        if answers < self.min_requests:
            return None
        errors, usual = sums.error_rate(self.kind), sums.champion_error_rate
        if self.max_errors is not None and errors - usual > self.max_errors:
            beside = f" and {usual:.2%} of the champion's" if self.kind == "canary" else ""
            return f"{errors:.2%} of {answers:,} answers failed{beside} (limit {self.max_errors:g})"
        limit, disagreement = self.max_disagreement, sums.disagreement
        if limit is not None and disagreement is not None and disagreement > limit:
            other = f"{disagreement:.2%} of {sums.compared:,} images got another class"
            return f"{other} (limit {limit:g})"
        limit, ratio = self.max_latency_ratio, sums.latency_ratio
        if limit is not None and ratio is not None and ratio > limit and self.is_judged(sums):
            return f"the mean latency is {ratio:.2f} times the champion's (limit {limit:g})"
        return None

    def is_judged(self, sums: "Sums") -> bool:
        """Return whether there are enough answers to check every limit."""
        if sums.answers(self.kind) < self.min_requests:
            return False
        return self.max_latency_ratio is None or sums.champion_requests >= self.min_requests


PARAMETERS = tuple(
    each.name for each in fields(Rollout) if each.name not in ("champion", "started")
)
"""Parameters with which a rollout is begun."""


def _number(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    most = float("inf") if name == "max_latency_ratio" else 1.0
    if not 0 <= value <= most or value == float("inf"):
        raise ValueError(f"{name} is {text!r:.50}, and must be a number from 0 to {most:g}")
    return value


@dataclass(slots=True)
class Sums:
    """Counts of a rollout. Seconds are those of the answers that did not fail."""

    champion_requests: int = 0
    champion_errors: int = 0
    champion_seconds: float = 0.0
    challenger_requests: int = 0
    challenger_errors: int = 0
    challenger_seconds: float = 0.0
    compared: int = 0
    """Images that a shadow compared, shed for want of idle time, and failed on."""
    shed: int = 0
    failed: int = 0
    agreed: int = 0
    differences: int = 0
    """Images whose mean absolute difference of probabilities is in `difference`."""
    difference: float = 0.0
    correlations: int = 0
    """Images whose rank correlation of the maps is in `correlation`."""
    correlation: float = 0.0

    def __add__(self, other: "Sums") -> "Sums":
        return Sums(*(mine + theirs for mine, theirs in _pairs(self, other)))

    def __sub__(self, other: "Sums") -> "Sums":
        return Sums(*(mine - theirs for mine, theirs in _pairs(self, other)))

    def answers(self, kind: Kind) -> int:
        """Return the number of the challenger's answers, the failed ones included."""
        return self.challenger_requests if kind == "canary" else self.compared + self.failed

    def error_rate(self, kind: Kind) -> float:
        """Return the part of the challenger's answers that failed."""
        failed = self.challenger_errors if kind == "canary" else self.failed
        return failed / max(1, self.answers(kind))

    @property
    def champion_error_rate(self) -> float:
        """Part of the champion's answers that failed."""
        return self.champion_errors / max(1, self.champion_requests)

    @property
    def disagreement(self) -> float | None:
        """Part of the compared images with another class; None if there are none."""
        return _mean(self.compared - self.agreed, self.compared)

    @property
    def latency_ratio(self) -> float | None:
        """Mean latency of the challenger beside the champion's; None if either is unknown."""
        champion_s = _mean(self.champion_seconds, self.champion_requests - self.champion_errors)
        challenger_s = _mean(
            self.challenger_seconds, self.challenger_requests - self.challenger_errors
        )
        return None if not champion_s or challenger_s is None else challenger_s / champion_s


def _pairs(one: Sums, other: Sums) -> list[tuple[Any, Any]]:
    return [(getattr(one, each.name), getattr(other, each.name)) for each in fields(Sums)]


def _mean(total: float, count: int) -> float | None:
    return total / count if count else None


@dataclass(slots=True)
class Tally:
    """Counts of one worker for the rollout that began at `started`."""

    started: float
    sums: Sums = field(default_factory=Sums)
    problem: str = ""
    """Reason why the rollout cannot go on; empty if it can."""

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "Tally":
        """Return the tally that `asdict` described."""
        return cls(**(content | {"sums": Sums(**content["sums"])}))


@dataclass(frozen=True, slots=True)
class RolloutProgress:
    """A rollout, what all workers have counted of it, and why it ended; empty while it runs."""

    rollout: Rollout
    sums: Sums = field(default_factory=Sums)
    ended: str = ""

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "RolloutProgress":
        """Return the progress that `asdict` described."""
        return cls(Rollout(**content["rollout"]), Sums(**content["sums"]), content["ended"])

    def describe(self) -> dict[str, Any]:
        """Return the rollout with counts and means, as `/models` shows it."""
        rollout, sums = self.rollout, self.sums
        described: dict[str, Any] = asdict(rollout) | {"ended": self.ended or None}
        if rollout.kind == "canary":
            return described | {
                "requests": sums.challenger_requests,
                "errors": sums.challenger_errors,
                "champion_requests": sums.champion_requests,
                "champion_errors": sums.champion_errors,
                "latency_ratio": sums.latency_ratio,
            }
        return described | {
            "compared": sums.compared,
            "shed": sums.shed,
            "failed": sums.failed,
            "agreement": _mean(sums.agreed, sums.compared),
            "probability_difference": _mean(sums.difference, sums.differences),
            "map_correlation": _mean(sums.correlation, sums.correlations),
        }
