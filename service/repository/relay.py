"""Way of clients' commands from the public port of a worker to the parent, which carries them out.

A worker writes what it is asked for into its slot of the shared memory, and reads the answer in the
parent's; see `service.repository.desk`.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any

from limelight.errors import (
    Draining,
    InternalError,
    LimelightError,
    NotReady,
    Overloaded,
    UnknownModel,
)
from service.errors import PermissionDenied, RepositoryConflict

ACTIONS = ("load", "unload")
POLL_S = 0.1
_TIMEOUT_S = 150.0
# Commands of one worker that wait for the parent.
_MAX_WAITING = 16
Asked = dict[str, dict[str, str]]
Answers = dict[str, dict[str, Any]]


class Relay:
    """Commands of one worker's clients, on their way to the parent.

    Args:
        write: writes the commands that wait into this worker's slot.
        read: returns the answers in the parent's slot; None while it is being written.
        draining: returns True if the service is shutting down.
    """

    def __init__(
        self,
        write: Callable[[Asked], None],
        read: Callable[[], Answers | None],
        draining: Callable[[], bool],
    ) -> None:
        self._write = write
        self._read = read
        self._draining = draining
        self._waiting: dict[str, dict[str, str]] = {}

    async def carry_out(self, action: str, name: str, *, id_: str, key: str) -> None:
        """Let the parent load or unload a model; return when all workers have followed.

        Args:
            action: one of `ACTIONS`.
            name: name of the model.
            id_: an ID that no other command has.
            key: name of the API key of the client, for the log.

        Raises:
            UnknownModel: the model does not exist, or cannot be served.
            RepositoryConflict: it cannot be unloaded.
            Overloaded: too many commands wait.
            Draining: the service is shutting down.
            NotReady: the parent has not answered in time.
        """
        if len(self._waiting) >= _MAX_WAITING:
            raise Overloaded("other commands on models are in progress", retry_after_s=5)
        self._waiting[id_] = {"action": action, "name": name, "key": key}
        try:
            self._write(dict(self._waiting))
            answer = await self._answer(id_)
        finally:
            del self._waiting[id_]
            self._write(dict(self._waiting))
        if error := _error_of(answer):
            raise error

    async def _answer(self, id_: str) -> dict[str, Any]:
        end = time.monotonic() + _TIMEOUT_S
        while time.monotonic() < end:
            if (answer := (self._read() or {}).get(id_)) is not None:
                return answer
            if self._draining():
                raise Draining("the service is shutting down", retry_after_s=10)
            await asyncio.sleep(POLL_S)
        raise NotReady("the parent process does not answer: see the log", retry_after_s=10)


def _error_of(answer: Mapping[str, Any]) -> LimelightError | None:
    if answer.get("failed"):
        return InternalError("the command failed in the service: see its log")
    if (text := answer["error"]) is None:
        return None
    return RepositoryConflict(text) if answer["found"] else UnknownModel(text)


def refused() -> LimelightError:
    """Return the error of a service that takes no commands on its public port."""
    return PermissionDenied(
        "models are loaded and unloaded here only with an API key of the scope admin, and this "
        "service has no keys (LIMELIGHT_KEYS_FILE): use its management port (LIMELIGHT_ADMIN_PORT)",
        scopes="admin",
    )
