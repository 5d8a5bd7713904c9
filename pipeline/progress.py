"""Progress of slow work, for a caller that shows it."""

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Called with the name of a step, its units so far and its units in all (0 if unknown)."""


def silent(step: str, done: int, total: int) -> None:
    """Show no progress."""
