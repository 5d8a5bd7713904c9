"""Caller of a request: the name of its API key, and what the key is allowed."""

from dataclasses import dataclass
from typing import Literal

from limelight.api_keys import SCOPES, Scope

Criticality = Literal["sheddable", "default", "critical"]
"""How much a request matters, from the one that is rejected first to the one rejected last."""
CRITICALITIES: tuple[Criticality, ...] = ("sheddable", "default", "critical")


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Owner of an API key. All requests with one of its keys share its rate and its queue."""

    name: str
    """Name of the key; empty if the service asks for none."""
    scopes: frozenset[Scope]
    rate: float | None = None
    """Requests per second; None: any number."""
    burst: float | None = None
    """Requests that may come at once; None: those of one second."""
    share: float = 1.0
    """Part of the service's time under load, relative to the other callers'."""
    criticality: Criticality = "default"
    """Highest criticality that its requests may have."""


ANYONE = Caller(name="", scopes=frozenset(SCOPES), criticality="critical")
"""Caller of every request while the service asks for no keys."""
