"""Reports: tables and targets with what was measured, printed and written as JSON and Markdown."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.common.machine import describe


@dataclass(frozen=True, slots=True)
class Verdict:
    """One target, and whether it was reached."""

    target: str
    measured: str
    reached: bool


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], *, left: int = 1) -> str:
    """A Markdown table whose first `left` columns are words, and the rest numbers."""
    rule = ["---"] * left + ["--:"] * (len(heads) - left)
    return "".join(f"| {' | '.join(line)} |\n" for line in (heads, rule, *rows))


@dataclass
class Report:
    """Findings of one command."""

    command: str
    settings: dict[str, Any]
    gpu: bool = False
    """True if the networks run on one."""
    measurements: dict[str, Any] = field(default_factory=dict)
    tables: list[str] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)

    def say(self, line: str) -> None:
        """Print at once, so that a long measurement can be watched."""
        print(line, flush=True)

    def add_table(
        self, title: str, heads: Sequence[str], rows: Sequence[Sequence[str]], *, left: int = 1
    ) -> None:
        """Add a table with its title."""
        self.tables.append(f"**{title}**\n\n{table(heads, rows, left=left)}")

    def judge(self, target: str, measured: str, reached: bool) -> None:
        """Add a verdict and print it."""
        self.verdicts.append(Verdict(target, measured, bool(reached)))
        self.say(f"{'reached' if reached else 'MISSED '}  {target}: {measured}")

    def finish(self, folder: Path) -> int:
        """Write `folder`/COMMAND.json and .md, and print the latter; 0 if no target was missed."""
        machine, date = describe(gpu=self.gpu), datetime.now(UTC).isoformat(timespec="seconds")
        versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
        heading = (
            f"{machine['gpu'] or machine['processor']}, {machine['cores']} cores, {date[:10]}; "
            f"{versions}. Medians, with the least and the most of the repeats.\n"
        )
        parts = [heading, *self.tables]
        if self.verdicts:
            said = {True: "reached", False: "missed"}
            rows = [(each.target, each.measured, said[each.reached]) for each in self.verdicts]
            parts.append(table(("target", "measured", ""), rows, left=3))
        folder.mkdir(parents=True, exist_ok=True)
        path, text = folder / f"{self.command}.json", "\n".join(parts)
        content = asdict(self) | {"machine": machine, "date": date}
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        path.with_suffix(".md").write_text(text, encoding="utf-8")
        self.say(f"\n{text}\nwritten to {path} and {path.with_suffix('.md').name}")
        return 0 if all(verdict.reached for verdict in self.verdicts) else 1
