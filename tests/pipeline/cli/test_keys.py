"""`limelight keys`: entries that the service reads, and keys that only the terminal shows."""

import io
import re
from pathlib import Path

import pytest

from limelight.api_keys import KeyHash
from service.access.keys_file import read_keys
from tests.pipeline.cli.running import limelight

KEY = re.compile(r"ll_[\w-]{43}")


def test_new_key_is_shown_once_and_its_entry_is_one_of_a_keys_file(tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    with file.open("w") as entries:
        for name, options in {
            "shop": ("--scope", "predict", "--rate", "50", "--share", "2"),
            "maps": (),
        }.items():
            made = limelight("keys", "new", name, *options, cwd=tmp_path)
            assert made.returncode == 0
            (key,) = KEY.findall(made.stderr)
            assert key not in made.stdout
            entries.write(made.stdout)
    shop, maps = read_keys(file)
    assert (shop.caller.name, shop.caller.rate, shop.caller.share) == ("shop", 50, 2)
    assert shop.caller.scopes == {"predict"}
    assert maps.caller.scopes == {"predict", "explain"}
    assert maps.hash.matches(key.encode())
    assert not shop.hash.matches(key.encode())


def test_hash_of_a_key_comes_from_a_pipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("correct-horse-battery\n"))
    made = limelight("keys", "hash", cwd=tmp_path)
    assert made.returncode == 0
    found = KeyHash.parse(made.stdout.strip())
    assert found.slow
    assert found.matches(b"correct-horse-battery")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("new", "the shop"), "is no name"),
        (("new", "shop", "--scope", "everything"), "not everything"),
        (("hash",), "8 to 256 characters"),
    ],
)
def test_refusal_says_what_to_do(
    arguments: tuple[str, ...], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("short\n"))
    refused = limelight("keys", *arguments, cwd=tmp_path)
    assert refused.returncode != 0
    assert words in refused.stderr
    assert refused.stdout == ""
