"""Coroutines that never wait, run without an event loop."""

from collections.abc import Coroutine
from typing import Any, TypeVar

_T = TypeVar("_T")


def finish(steps: Coroutine[Any, Any, _T]) -> _T:
    """Run a coroutine that never waits, which needs no event loop."""
    try:
        steps.send(None)
    except StopIteration as done:
        result: _T = done.value
        return result
    finally:
        steps.close()
    raise RuntimeError("a step waited for something")
