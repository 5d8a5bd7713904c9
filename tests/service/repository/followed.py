"""Bench of a coordinator whose workers follow in a thread, for the commands of an operator."""

import threading
from collections.abc import Collection
from pathlib import Path
from typing import Any, Self

import pytest

from service.repository import coordinator
from service.repository.control import Control
from service.repository.plan import Plan, Report
from tests.service.repository.test_coordinator import FIRST, SECOND, Bench

_LOOK_S = 0.005


class Followed(Bench):
    """Bench whose workers load everything but the versions `damaged`, until the block ends.

    Attributes:
        default: model that answers requests without the name of one.
        shown: what `describe` showed of the models, from one look to the next.
        hung: True lets the workers report nothing.
    """

    def __init__(
        self, root: Path, *, damaged: Collection[str] = (), default: str = "", **options: Any
    ) -> None:
        super().__init__(root, **options)
        self.damaged, self.default, self.hung = damaged, default, False
        self.control = Control(self.coordinator, timeout_s=10)
        self.shown: list[dict[str, dict[str, Any]]] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._follow)
        self._patch = pytest.MonkeyPatch()

    def __enter__(self) -> Self:
        self._patch.setattr(coordinator, "SWITCH_AFTER_S", 0.02)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()
        self._patch.undo()

    @property
    def models(self) -> dict[str, dict[str, Any]]:
        """Return what `describe` shows now, by model."""
        return {each["name"]: each for each in self.control.describe()["models"]}

    def served(self, name: str = "colours") -> list[str]:
        """Return the versions of a model that are served, the active one first."""
        return list(self.models[name]["versions"]) if name in self.models else []

    def ever_active(self, name: str = "colours") -> set[str]:
        """Return the versions of a model that were active at any time."""
        return {models[name]["active"] for models in self.shown if name in models}

    def _follow(self) -> None:
        seen = self.coordinator.state.target
        while not self._ended.wait(_LOOK_S):
            if not self.hung:
                self._report(seen)
            seen = self.coordinator.state.target  # which takes them until the next look
            self.coordinator.step()
            self.shown.append(self.models)

    def _report(self, target: Plan) -> None:
        keys = {f"{name}/{version}" for (name, version), _ in target}
        failed = dict.fromkeys(keys & set(self.damaged), "damaged")
        for slot, pid in ((1, FIRST), (2, SECOND)):
            report = Report(pid, target.generation, failed, default=self.default)
            self.shared.write(slot, report.to_json())
