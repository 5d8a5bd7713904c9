"""Keys and their hashes."""

import hashlib

import pytest

from limelight.api_keys import KeyHash, hash_key, new_key

CHOSEN = "correct-horse-battery"


def test_new_keys_differ_and_have_a_prefix_and_256_bits() -> None:
    keys = {new_key() for _ in range(100)}
    assert len(keys) == 100
    assert all(key.startswith("ll_") and len(key) == 3 + 43 for key in keys)


def test_generated_key_gets_sha256_and_a_chosen_one_salted_scrypt() -> None:
    key = new_key()
    assert hash_key(key) == f"sha256:{hashlib.sha256(key.encode()).hexdigest()}"
    first, second = hash_key(CHOSEN), hash_key(CHOSEN)
    assert first.startswith("scrypt:16384:8:1:")
    assert first != second  # each has its own salt
    assert CHOSEN not in first


@pytest.mark.parametrize("kind", ["sha256", "scrypt"])
def test_hash_matches_its_own_key_only(kind: str) -> None:
    found = KeyHash.parse(hash_key(CHOSEN, kind=kind))  # type: ignore[arg-type]
    assert found.slow == (kind == "scrypt")
    assert found.matches(CHOSEN.encode())
    assert not found.matches(CHOSEN[:-1].encode())
    assert not found.matches(b"")


@pytest.mark.parametrize("key", ["short", "two words of it", "Schlüssel-für-alle", "x" * 257, ""])
def test_key_that_a_header_cannot_have_is_rejected(key: str) -> None:
    with pytest.raises(ValueError, match="without spaces: choose another"):
        hash_key(key)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "secret",
        "sha256:abc",
        "sha256:" + "0" * 62,
        "md5:" + "0" * 64,
        "scrypt:16384:8:1:AAAA:AAAA",
        "scrypt:16383:8:1:" + "A" * 22 + "==:" + "A" * 43 + "=",
        # A hash must not take gigabytes for each request.
        "scrypt:1048576:8:1:" + "A" * 22 + "==:" + "A" * 43 + "=",
        "scrypt:16384:8:100:" + "A" * 22 + "==:" + "A" * 43 + "=",
        # scrypt has no such costs.
        "scrypt:65536:1:1:" + "A" * 22 + "==:" + "A" * 43 + "=",
        "scrypt:2:262144:4:" + "A" * 22 + "==:" + "A" * 43 + "=",
    ],
)
def test_text_that_is_no_hash_is_rejected(text: str) -> None:
    with pytest.raises(ValueError, match="make it again"):
        KeyHash.parse(text)
