"""Bound of the memory that the models of one worker take, and what is left out to keep it.

A model's files say little about its memory: a small network takes many times their size while it
computes. So each worker measures what a model adds to it, and the parent takes the median. Before a
model was loaded, only its largest graph is known, which it needs at least.
"""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from statistics import median

from service.repository.plan import Plan, Report

Models = dict[str, dict[str, str]]
Sizes = Mapping[str, int]
"""NAME/VERSION -> bytes of its largest graph."""


@dataclass(slots=True)
class MemoryBound:
    """Memory of the models, as measured, and versions that are left out to keep the bound.

    Attributes:
        max_bytes: most memory of the models in one worker; None: no bound.
        idle_s: seconds without an image, after which a version may be unloaded to make room; 0:
            none is.
        left_out: versions that are not loaded although they were chosen, with the reason.
    """

    max_bytes: int | None = None
    idle_s: float = 0.0
    left_out: dict[str, str] = field(default_factory=dict)
    _measured: dict[str, int] = field(default_factory=dict)
    _used: dict[str, float] = field(default_factory=dict)

    def note(self, reports: Iterable[Report], plan: Plan) -> bool:
        """Note what workers have measured; return True if `plan` takes too much, as is known now.

        The first measurement of a version counts. A worker that measures it later, because it was
        replaced, changes nothing.
        """
        reports = list(reports)
        found: dict[str, list[int]] = {}
        for report in reports:
            for key, taken in report.memory.items():
                if key not in self._measured:
                    found.setdefault(key, []).append(taken)
            for key, used in report.used.items():
                self._used[key] = max(used, self._used.get(key, 0.0))
        self._measured |= {key: int(median(taken)) for key, taken in found.items()}
        keys = [f"{name}/{version}" for (name, version), _ in plan]
        return bool(found) and self.max_bytes is not None and self._sum(keys, {}) > self.max_bytes

    def forget(self, keys: Iterable[str]) -> None:
        """Load these versions again, if there is room now; their files may have changed."""
        for key in list(keys):
            self.left_out.pop(key, None)
            self._measured.pop(key, None)

    def fit(
        self, models: Models, sizes: Sizes, *, served: Iterable[str], kept: Iterable[str]
    ) -> dict[str, str]:
        """Remove from `models` what is left out, and return what must be refused, with the reason.

        Versions that are not active and not in `kept` are left out: first those that are not in
        `served` yet, then those that are idle, the least recently used one first. If that does not
        suffice, an active version that is not served yet is refused. If nothing is served yet, the
        last model is kept, unless its graph alone is too much.
        """
        chosen = {f"{name}/{each}" for name, versions in models.items() for each in versions}
        active = [f"{name}/{next(iter(versions))}" for name, versions in models.items()]
        chosen -= set(active)
        self.left_out = {key: why for key, why in self.left_out.items() if key in chosen}
        self._remove(models)
        if self.max_bytes is None:
            return {}
        keys = [f"{name}/{version}" for name, versions in models.items() for version in versions]
        served, kept = set(served), {*kept, *active}
        new = [key for key in keys if key not in served]
        for key in [key for key in reversed(new) if key not in kept]:
            if (total := self._sum(keys, sizes)) > self.max_bytes:
                keys.remove(key)
                self.left_out[key] = self._reason(key, total, sizes)
        idle = [key for key in keys if key not in kept and self._idle_s(key) >= self.idle_s > 0]
        total = self._sum(keys, sizes)
        if total - self._sum(idle, sizes) <= self.max_bytes:
            for key in sorted(idle, key=self._idle_s, reverse=True):
                if self._sum(keys, sizes) > self.max_bytes:
                    keys.remove(key)
                    self.left_out[key] = (
                        f"unloaded to make room: no image came for {self._idle_s(key):.0f} s, and "
                        f"LIMELIGHT_MAX_MODEL_BYTES is {self.max_bytes:,}"
                    )
        self._remove(models)
        refusable = [key for key in active if key in new]
        if not served and len(active) == 1 and active[0] in self._measured:
            return {}  # the last model of the start: without it, nothing would be served
        if refusable and (total := self._sum(keys, sizes)) > self.max_bytes:
            return {refusable[-1]: self._reason(refusable[-1], total, sizes)}
        return {}

    def _remove(self, models: Models) -> None:
        for name in models:
            models[name] = {
                version: folder
                for version, folder in models[name].items()
                if f"{name}/{version}" not in self.left_out
            }

    def _sum(self, keys: Iterable[str], sizes: Sizes) -> int:
        return sum(self._measured.get(key, sizes.get(key, 0)) for key in keys)

    def _idle_s(self, key: str) -> float:
        return time.monotonic() - self._used.get(key, time.monotonic())

    def _reason(self, key: str, total: int, sizes: Sizes) -> str:
        least = "" if key in self._measured else "at least "
        own = self._sum([key], sizes)
        return (
            f"it takes {least}{own:,} bytes of a worker's memory, with which the models take "
            f"{total:,}, and LIMELIGHT_MAX_MODEL_BYTES is {self.max_bytes:,}: unload "
            "another model and load it again, or raise the limit"
        )
