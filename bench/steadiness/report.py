"""Verdicts: each aim with what was measured, printed, written as JSON, and told by the exit."""

import json
import os
import platform
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bench.serving.machine import cpu_name

_PACKAGES = ("bentoml", "onnxruntime-gpu", "onnxruntime", "uvicorn", "starlette", "uvloop")


@dataclass(frozen=True, slots=True)
class Verdict:
    """One aim, and whether it was reached."""

    aim: str
    measured: str
    reached: bool


@dataclass
class Report:
    """What one command found out."""

    command: str
    settings: dict[str, Any]
    measurements: dict[str, Any] = field(default_factory=dict)
    verdicts: list[Verdict] = field(default_factory=list)

    def say(self, line: str) -> None:
        """Print at once, so that a long measurement can be watched."""
        print(line, flush=True)

    def judge(self, aim: str, measured: str, reached: bool) -> None:
        """Add a verdict and print it."""
        self.verdicts.append(Verdict(aim, measured, bool(reached)))
        self.say(f"{'reached' if reached else 'MISSED '}  {aim}: {measured}")

    def finish(self, folder: Path) -> int:
        """Write `folder`/COMMAND.json; 0 where every aim was reached, else 1."""
        folder.mkdir(parents=True, exist_ok=True)
        content = asdict(self) | {
            "machine": machine(),
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        path = folder / f"steady-{self.command}.json"
        path.write_text(json.dumps(content, indent=2) + "\n")
        self.say(f"{machine()['processor']}, {machine()['cores']} cores; written to {path}")
        return 0 if all(verdict.reached for verdict in self.verdicts) else 1


def machine() -> dict[str, Any]:
    """The processor's name, the cores that may be used, and the versions of what runs on them."""
    versions = {"python": platform.python_version(), "linux": platform.release()}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except ImportError:
            continue
    return {
        "processor": cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "versions": versions,
    }


def spread(values: list[float], digits: int = 0) -> str:
    """The median with the smallest and the largest: "640 (610 to 655)"."""
    ordered = sorted(values)
    middle = (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2
    return f"{middle:.{digits}f} ({ordered[0]:.{digits}f} to {ordered[-1]:.{digits}f})"
