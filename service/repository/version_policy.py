"""Version policy: which of the versions on disk are served."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

_LATEST = re.compile(r"latest(?::([1-9][0-9]{0,3}))?")
_SPECIFIC = re.compile(r"specific:([0-9]{1,9}(?:,[0-9]{1,9})*)")
_Folder = TypeVar("_Folder")


@dataclass(frozen=True, slots=True)
class VersionPolicy:
    """Policy of one model: the `latest` versions, or `specific` ones."""

    latest: int = 1
    specific: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> "VersionPolicy":
        """Parse `latest`, `latest:N` or `specific:V,V`.

        Raises:
            ValueError: it is none of them.
        """
        if found := _LATEST.fullmatch(text):
            return cls(latest=int(found[1] or 1))
        if found := _SPECIFIC.fullmatch(text):
            return cls(specific=tuple(found[1].split(",")))
        raise ValueError(
            f"{text[:100]!r} is no version policy: write latest, latest:2 or specific:3,5"
        )

    def select(self, versions: Mapping[str, _Folder]) -> dict[str, _Folder]:
        """Select from `versions`, newest first; the order stays."""
        if self.specific:
            return {each: versions[each] for each in versions if each in self.specific}
        return dict(list(versions.items())[: self.latest])


@dataclass(frozen=True, slots=True)
class VersionPolicies:
    """Policy of each model, and of those that have none of their own."""

    default: VersionPolicy = VersionPolicy()
    by_name: tuple[tuple[str, VersionPolicy], ...] = ()

    @classmethod
    def parse(cls, text: str) -> "VersionPolicies":
        """Parse one policy for all, or `NAME=POLICY; NAME=POLICY; POLICY`.

        Raises:
            ValueError: a part is no policy.
        """
        default, by_name = VersionPolicy(), {}
        for part in filter(None, (each.strip() for each in text.split(";"))):
            name, separator, policy = part.rpartition("=")
            if separator:
                by_name[name.strip()] = VersionPolicy.parse(policy.strip())
            else:
                default = VersionPolicy.parse(part)
        return cls(default, tuple(by_name.items()))

    def of(self, name: str) -> VersionPolicy:
        """Return the policy of a model."""
        return dict(self.by_name).get(name, self.default)
