"""Commands of clients: each is carried out once, and its answer kept until it was read."""

import asyncio

import pytest

from limelight.errors import Draining, InternalError, Overloaded, UnknownModel
from service.errors import RepositoryConflict
from service.repository.control import RepositoryError
from service.repository.desk import Desk
from service.repository.relay import Answers, Asked, Relay


class Memory:
    """The shared memory: what is asked, and what was answered."""

    def __init__(self) -> None:
        self.commands: Asked = {}
        self.answers: Answers = {}

    def asked(self) -> Asked:
        return self.commands

    def answer(self, answers: Answers) -> None:
        self.answers = answers

    def ask(self, asked: Asked) -> None:
        self.commands = asked


class Control:
    """Stands in for the control of the repository, and counts what it is told."""

    def __init__(self) -> None:
        self.done: list[str] = []

    def load(self, name: str) -> None:
        self.done.append(f"load {name}")
        if name == "nope":
            raise RepositoryError("there is none", found=False)
        if name == "broken":
            raise RuntimeError("a mistake")

    def unload(self, name: str) -> None:
        self.done.append(f"unload {name}")
        raise RepositoryError("it is the only model")


def test_command_is_carried_out_once_and_its_answer_kept_until_it_was_read() -> None:
    memory, control = Memory(), Control()
    desk = Desk(memory, control)  # type: ignore[arg-type]
    memory.commands = {"x": {"action": "load", "name": "a", "key": "chief"}}
    for _ in range(3):
        desk.step()
    assert control.done == ["load a"]
    assert memory.answers == {"x": {"error": None}}
    memory.commands = {}
    desk.step()
    assert memory.answers == {}


@pytest.mark.parametrize(
    ("action", "name", "expected"),
    [
        ("load", "a", None),
        ("load", "nope", UnknownModel),
        ("load", "broken", InternalError),
        ("unload", "a", RepositoryConflict),
    ],
)
async def test_answer_reaches_the_client_as_an_error_of_its_kind(
    action: str, name: str, expected: type[Exception] | None
) -> None:
    memory = Memory()
    desk = Desk(memory, Control())  # type: ignore[arg-type]
    relay = Relay(memory.ask, lambda: memory.answers, lambda: False)
    command = asyncio.create_task(relay.carry_out(action, name, id_="1", key="chief"))
    await asyncio.sleep(0)
    desk.step()
    if expected is None:
        await command
    else:
        with pytest.raises(expected):
            await command
    assert memory.commands == {}


async def test_waiting_commands_are_limited_and_end_with_the_service() -> None:
    memory, draining = Memory(), False
    relay = Relay(memory.ask, lambda: memory.answers, lambda: draining)
    commands = [
        asyncio.create_task(relay.carry_out("load", "a", id_=str(number), key=""))
        for number in range(16)
    ]
    await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        await relay.carry_out("load", "a", id_="one more", key="")
    draining = True
    for command in commands:
        with pytest.raises(Draining):
            await command
