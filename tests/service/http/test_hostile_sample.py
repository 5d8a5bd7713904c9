"""A sample of the hostile inputs; `make test-hostile` sends all, in little memory."""

import random

import pytest

from tests.long.hostile.attack import Target, attack
from tests.long.hostile.images import images
from tests.long.hostile.inputs import HttpInput
from tests.long.hostile.limits import workers
from tests.long.hostile.open_inference import open_inference
from tests.long.hostile.requests import requests
from tests.serving_kit import Server

_COUNT = 32
_LEFT_OUT = ("slow", "huge JPEG")
"""Kinds that wait for a time limit, or that take long to make."""


def sample() -> list[HttpInput]:
    """Return as many of each kind, as far as there are any."""
    rng, kinds = random.Random(20261126), dict[str, list[HttpInput]]()
    for each in (*images(), *requests(), *open_inference("colours")):
        if each.kind not in _LEFT_OUT and each.requests == 1:
            kinds.setdefault(each.kind, []).append(each)
    for found in kinds.values():
        rng.shuffle(found)
    most = max(map(len, kinds.values()))
    return [found[at] for at in range(most) for found in kinds.values() if at < len(found)][:_COUNT]


@pytest.mark.parametrize("hostile", sample(), ids=str)
def test_hostile_input_is_answered_honestly_and_cheaply(server: Server, hostile: HttpInput) -> None:
    target = Target(int(server.url.rpartition(":")[2]), server.process.pid)
    before = {each.pid for each in workers(target.parent)}
    assert not attack(target, hostile).problems()
    assert {each.pid for each in workers(target.parent)} == before
