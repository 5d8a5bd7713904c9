"""Commands of clients, which workers forward: the parent carries out each once, and in turn."""

import logging
import threading
from collections.abc import Mapping
from typing import Any, Protocol

from service.repository.control import Control, RepositoryError
from service.repository.relay import POLL_S, Answers, Asked

logger = logging.getLogger("limelight.repository")


class Slots(Protocol):
    """Slots of the shared memory, as the parent uses them."""

    def asked(self) -> Asked:
        """Return the commands of all workers: id -> action and name."""

    def answer(self, answers: Answers) -> None:
        """Let the workers read these answers, and no others: id -> error, and whether found."""


class Desk:
    """Carries out the commands of the workers, in a thread of the parent."""

    def __init__(self, slots: Slots, control: Control) -> None:
        self._slots = slots
        self._control = control
        self._answers: Answers = {}
        self._ended = threading.Event()

    def start(self) -> None:
        """Carry out commands until `stop`."""
        threading.Thread(target=self._work, name="limelight-desk", daemon=True).start()

    def stop(self) -> None:
        """End the thread after its present command."""
        self._ended.set()

    def step(self) -> None:
        """Carry out one command that is new, and forget those whose answer was read."""
        asked = self._slots.asked()
        kept = {id_: answer for id_, answer in self._answers.items() if id_ in asked}
        new = next((id_ for id_ in asked if id_ not in kept), None)
        if new is not None:
            kept[new] = self._carry_out(asked[new])
        if kept != self._answers:
            self._answers = kept
            self._slots.answer(kept)

    def _work(self) -> None:
        while not self._ended.wait(POLL_S):
            try:
                self.step()
            except Exception:
                logger.exception("commands of clients cannot be read; it is tried again")

    def _carry_out(self, command: Mapping[str, str]) -> dict[str, Any]:
        action, name = command["action"], command["name"]
        logger.info("%s of %s is asked for by %s", action, name, command["key"])
        try:
            (self._control.load if action == "load" else self._control.unload)(name)
        except RepositoryError as error:
            return {"error": str(error), "found": error.found}
        except Exception:
            logger.exception("%s of %s failed", action, name)
            return {"error": None, "failed": True}
        return {"error": None}
