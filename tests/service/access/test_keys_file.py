"""The file of keys: what it may hold, and what is said about one that is broken."""

from pathlib import Path

import pytest

from limelight.api_keys import entry, hash_key
from service.access.keys_file import KeysFileError, read_keys
from tests.service.access.kit import KEYS, keys_text

HASH = hash_key(KEYS["shop"])
GOOD = entry("shop", HASH, scopes=("predict",), rate=5, share=2)


def test_every_field_of_a_key_is_read(tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    second = hash_key("another-key-of-shop")
    text = GOOD.replace("]\nscopes", f', "{second}"]\nscopes')
    file.write_text(text + 'burst = 20\ncriticality = "critical"\n')
    first, other = read_keys(file)
    assert (first.hash.text, other.hash.text) == (HASH, second)
    assert first.caller is other.caller
    caller = first.caller
    assert (caller.name, caller.scopes) == ("shop", frozenset({"predict"}))
    assert (caller.rate, caller.burst, caller.share) == (5, 20, 2)
    assert caller.criticality == "critical"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "keys: Field required"),
        ("keys = []", "keys: List should have at least 1 item"),
        (GOOD[:20], "it is not TOML"),
        (GOOD.replace("scopes", "scope"), "keys.0.scopes: Field required"),
        (GOOD.replace('"predict"', '"preditc"'), "keys.0.scopes.0: Input should be 'predict'"),
        (GOOD.replace("rate = 5", "rate = 0"), "keys.0.rate: Input should be greater than 0"),
        (GOOD.replace("rate = 5", "rate = " + "1" * 5000), "it is not TOML that can be read"),
        (GOOD.replace("rate = 5", "rate = " + "[" * 5000), "it is not TOML"),
        (GOOD.replace("rate = 5", 'rate = "5"'), "keys.0.rate: Input should be a valid number"),
        (GOOD.replace("shop", "the shop"), "keys.0.name: String should match pattern"),
        (GOOD.replace(HASH, "plain-secret"), "keys.0.hashes.0: a hash is not one of `limelight"),
        (GOOD + "colour = 1", "keys.0.colour: Extra inputs are not permitted"),
        (GOOD + GOOD, "two of its keys have the same name"),
        (GOOD + GOOD.replace("shop", "shed"), "two of its keys have the same hash"),
    ],
)
def test_broken_file_is_named_without_a_secret(text: str, problem: str, tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    file.write_text(text)
    with pytest.raises(KeysFileError) as broken:
        read_keys(file)
    assert problem in str(broken.value)
    assert HASH[7:20] not in str(broken.value)
    assert "plain-secret" not in str(broken.value)
    assert "\n" not in str(broken.value)


def test_unreadable_and_huge_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(KeysFileError, match="cannot be read: No such file"):
        read_keys(tmp_path / "nothing.toml")
    with pytest.raises(KeysFileError, match="cannot be read: Is a directory"):
        read_keys(tmp_path)
    file = tmp_path / "huge.toml"
    file.write_bytes(b"#" * 1_000_001)
    with pytest.raises(KeysFileError, match="more than 1000000 bytes"):
        read_keys(file)
    file.write_bytes(keys_text().encode("utf-16"))
    with pytest.raises(KeysFileError, match="it is not UTF-8"):
        read_keys(file)
