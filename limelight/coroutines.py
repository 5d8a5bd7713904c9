"""Coroutines that never suspend, run without an event loop."""

from collections.abc import Coroutine
from typing import Any, TypeVar

_T = TypeVar("_T")


def finish(steps: Coroutine[Any, Any, _T]) -> _T:
    """Run a coroutine that never suspends, without an event loop.

    Raises:
        RuntimeError: it was suspended.
    """
    try:
        steps.send(None)
    except StopIteration as done:
        result: _T = done.value
        return result
    finally:
        steps.close()
    raise RuntimeError("the coroutine was suspended: its runner must not await anything")
