"""The keyring: whose key it is, and how it follows its file."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path
from unittest import mock

import pytest

from limelight.api_keys import KeyHash, entry, hash_key
from limelight.errors import Overloaded
from service.access import keyring as keyrings
from service.access.keyring import Keyring
from tests.service.access.kit import KEYS, keys_text, replace

NEW = "ll_" + "b" * 43
CHOSEN = "correct-horse-battery"


class States:
    """Record of what a keyring says about its file."""

    def __init__(self) -> None:
        self.names, self.broken, self.ever_broken = 0, False, False

    def __call__(self, names: int, broken: bool) -> None:
        self.names, self.broken = names, broken
        self.ever_broken |= broken


@contextlib.asynccontextmanager
async def watched(file: Path) -> AsyncIterator[tuple[Keyring, States]]:
    states = States()
    with mock.patch.object(keyrings, "POLL_S", 0.02):
        keyring = Keyring(file, states)
        task = asyncio.create_task(keyring.watch())
        yield keyring, states
        task.cancel()


async def until(keyring: Keyring, key: str, *, known: bool) -> None:
    async with asyncio.timeout(5):
        while (keyring.find(key.encode()) is not None) != known:
            await asyncio.sleep(0.01)


def name_of(keyring: Keyring, key: str) -> str | None:
    caller = keyring.find(key.encode())
    return None if caller is None else caller.name


async def test_each_key_has_its_name_and_others_have_none(tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    file.write_text(keys_text())
    async with watched(file) as (keyring, states):
        for _ in range(2):  # the second time, the key is remembered
            assert [name_of(keyring, key) for key in KEYS.values()] == list(KEYS)
            for wrong in ("", NEW, KEYS["shop"][:-1], KEYS["shop"] + "a", "x" * 10_000):
                assert keyring.find(wrong.encode()) is None
        assert (states.names, states.broken) == (len(KEYS), False)


async def test_changed_file_counts_at_once_and_a_removed_key_is_forgotten(tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    file.write_text(keys_text())
    async with watched(file) as (keyring, _):
        assert name_of(keyring, KEYS["shop"]) == "shop"
        replace(file, keys_text(shop=NEW))
        await until(keyring, NEW, known=True)
        assert name_of(keyring, NEW) == "shop"
        assert keyring.find(KEYS["shop"].encode()) is None
        assert keyring.find(KEYS["maps"].encode()) is None


async def test_file_behind_links_of_kubernetes_is_followed(tmp_path: Path) -> None:
    for number, text in enumerate((keys_text(), keys_text(**(KEYS | {"shop": NEW})))):
        (tmp_path / f"..{number}").mkdir()
        (tmp_path / f"..{number}" / "keys.toml").write_text(text)
        # The same time and size: only the inode tells that it is another file.
        os.utime(tmp_path / f"..{number}" / "keys.toml", (1e9, 1e9))
    (tmp_path / "..data").symlink_to("..0")
    (tmp_path / "keys.toml").symlink_to("..data/keys.toml")
    async with watched(tmp_path / "keys.toml") as (keyring, _):
        assert name_of(keyring, KEYS["shop"]) == "shop"
        (tmp_path / "..tmp").symlink_to("..1")
        (tmp_path / "..tmp").replace(tmp_path / "..data")
        await until(keyring, NEW, known=True)
        assert keyring.find(KEYS["shop"].encode()) is None


@pytest.mark.parametrize("broken", [None, "", "[[keys]]\nname ="])
async def test_broken_file_keeps_the_keys_before_it(
    broken: str | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "keys.toml"
    file.write_text(keys_text())
    async with watched(file) as (keyring, states):
        if broken is None:
            file.unlink()
        else:
            replace(file, broken)
        async with asyncio.timeout(5):
            while not states.broken:
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        assert name_of(keyring, KEYS["shop"]) == "shop"
        assert caplog.text.count("the keys before it stay valid") == 1  # not at every look
        replace(file, keys_text(shop=NEW))
        await until(keyring, NEW, known=True)
        assert not states.broken


async def test_file_that_is_still_being_written_is_not_read(tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    file.write_text(keys_text())
    async with watched(file) as (keyring, states):
        with file.open("w") as writing:
            for character in keys_text(shop=NEW):
                writing.write(character)
                writing.flush()
                await asyncio.sleep(0.002)
        await until(keyring, NEW, known=True)
        assert not states.ever_broken


async def test_chosen_key_is_compared_once_and_survives_a_new_file(tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    chosen = entry("person", hash_key(CHOSEN), scopes=("predict",))
    file.write_text(keys_text(more=chosen))
    async with watched(file) as (keyring, _):
        assert keyring.has_slow
        assert keyring.find(CHOSEN.encode()) is None
        caller = await keyring.find_slow(CHOSEN.encode())
        assert caller is not None
        assert caller.name == "person"
        assert await keyring.find_slow(NEW.encode()) is None
        with mock.patch.object(KeyHash, "matches", side_effect=AssertionError):
            assert name_of(keyring, CHOSEN) == "person"
            assert await keyring.find_slow(NEW.encode()) is None
        replace(file, keys_text(more=chosen, shop=NEW))
        await until(keyring, NEW, known=True)
        with mock.patch.object(KeyHash, "matches", side_effect=AssertionError):
            assert name_of(keyring, CHOSEN) == "person"
        replace(file, keys_text())
        await until(keyring, CHOSEN, known=False)


async def test_flood_of_unknown_keys_takes_one_thread_and_bounded_memory(tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    file.write_text(entry("person", hash_key(CHOSEN), scopes=("predict",)))
    async with watched(file) as (keyring, _):
        running, most = 0, 0

        def compare(keys: object, key: bytes) -> None:
            nonlocal running, most
            running += 1
            most = max(most, running)
            running -= 1

        with mock.patch.object(keyrings, "_matching", compare):
            found = await asyncio.gather(
                *(keyring.find_slow(b"%030d" % number) for number in range(100)),
                return_exceptions=True,
            )
            for number in range(2000):
                await keyring.find_slow(b"%020d" % number)
        refused = [each for each in found if isinstance(each, Overloaded)]
        assert len(refused) == 100 - 32
        assert most == 1
        assert len(keyring._keys.refused) == 1024


def test_service_that_never_had_keys_says_that_none_is_valid(tmp_path: Path) -> None:
    states = States()
    keyring = Keyring(tmp_path / "nothing", states)
    assert keyring.is_empty
    assert states.broken
    assert keyring.problem is not None
