"""Findings of the parts, in one JSON file that is complete after every step."""

import json
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from pydantic import JsonValue

from pipeline.atomic_files import write_text

FILE = "results.json"
_T = TypeVar("_T")


class Deadline:
    """The time at which a part has to be done."""

    def __init__(self, seconds: float) -> None:
        self._end_s = time.monotonic() + seconds

    @property
    def left_s(self) -> float:
        """Seconds that are left, below zero once it is over."""
        return self._end_s - time.monotonic()


class Results:
    """The section of one part in `folder`/results.json, written at every change.

    Attributes:
        failed: whether a step failed.
    """

    def __init__(self, folder: Path, part: str) -> None:
        self._file, self._part = folder / FILE, part
        self._found: dict[str, JsonValue] = {}
        self.failed = False
        folder.mkdir(parents=True, exist_ok=True)

    def add(self, name: str, value: JsonValue) -> None:
        """Set one entry and print it."""
        self._found[name] = value
        everything = json.loads(self._file.read_text()) if self._file.is_file() else {}
        everything[self._part] = self._found
        write_text(self._file, json.dumps(everything, indent=1) + "\n")
        print(f"[{self._part}] {name}: {json.dumps(value)}", flush=True)

    def attempt(self, name: str, step: Callable[[], _T]) -> _T | None:
        """Run one step; one that fails is recorded with its error, and gives None."""
        try:
            return step()
        # What fails on a machine, and how, is what this is to find out.
        except Exception as error:
            traceback.print_exc()
            self.failed = True
            self.add(name, {"failed": f"{type(error).__name__}: {error}"[:2000]})
            return None
