"""API keys: how they are made, and the hashes by which a service knows them.

A service keeps hashes only. A key that is made here has 256 random bits, so its SHA-256 is safe
enough: nobody can try all of them. A key that a person chose can be guessed, so it gets scrypt
(RFC 7914), which makes every guess expensive.
"""

import base64
import hashlib
import hmac
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

Scope = Literal["predict", "explain", "metrics", "admin"]
"""Part of the service that a key may use."""
SCOPES: tuple[Scope, ...] = get_args(Scope)
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
"""Form of a key's name: it is a label of metrics, and stands in log lines."""
MAX_KEY_LENGTH = 256

_GENERATED = re.compile(r"ll_[A-Za-z0-9_-]{43}")
# Characters that a header can have, without a space.
_KEY = re.compile(rf"[\x21-\x7e]{{8,{MAX_KEY_LENGTH}}}")
_SALT_BYTES, _DIGEST_BYTES = 16, 32
# 16 MiB and about 50 ms for each guess (OWASP's choice for interactive logins has the same memory).
_N, _R, _P = 1 << 14, 8, 1
_MAX_MEMORY = 1 << 26


def new_key() -> str:
    """Return a new key of 256 random bits; the prefix lets secret scanners find lost ones."""
    return f"ll_{secrets.token_urlsafe(32)}"


def hash_key(key: str, *, kind: Literal["sha256", "scrypt"] | None = None) -> str:
    """Return the hash of a key, as it stands in a file of keys.

    The default of `kind` is `sha256` for a key of `new_key`, and `scrypt` for any other.

    Raises:
        ValueError: the key cannot be sent in a header, or is too short or too long.
    """
    if not _KEY.fullmatch(key):
        raise ValueError(
            f"a key has 8 to {MAX_KEY_LENGTH} characters of ASCII, without spaces: choose another"
        )
    if (kind or ("sha256" if _GENERATED.fullmatch(key) else "scrypt")) == "sha256":
        return f"sha256:{hashlib.sha256(key.encode()).hexdigest()}"
    salt = secrets.token_bytes(_SALT_BYTES)
    digest = _scrypt(key.encode(), salt, _N, _R, _P)
    return f"scrypt:{_N}:{_R}:{_P}:{_encoded(salt)}:{_encoded(digest)}"


@dataclass(frozen=True, slots=True)
class KeyHash:
    """Hash of a key.

    Attributes:
        text: the hash as it stands in a file of keys.
        slow: True for scrypt, whose comparison takes a core for a twentieth of a second.
    """

    text: str
    slow: bool
    _digest: bytes
    _salt: bytes = b""
    _cost: tuple[int, int, int] = (0, 0, 0)

    @classmethod
    def parse(cls, text: str) -> "KeyHash":
        """Read a hash that `hash_key` wrote.

        Raises:
            ValueError: it is none, or it would take too much memory.
        """
        kind, *parts = text.split(":")
        try:
            if kind == "sha256" and len(parts) == 1:
                digest = bytes.fromhex(parts[0])
                found = cls(text, False, digest)
            elif kind == "scrypt" and len(parts) == 5:
                n, r, p = (int(part) for part in parts[:3])
                salt, digest = (base64.b64decode(part, validate=True) for part in parts[3:])
                _check_cost(n, r, p)
                found = cls(text, True, digest, salt, (n, r, p))
            else:
                raise ValueError("unknown kind")
            if len(digest) != _DIGEST_BYTES:
                raise ValueError("wrong length")
        except ValueError as error:
            raise ValueError(
                "a hash is not one of `limelight keys new` or `limelight keys hash`: make it again"
            ) from error
        return found

    def matches(self, key: bytes) -> bool:
        """Return True if this is the hash of `key`; the time does not tell where it differs."""
        if self.slow:
            digest = _scrypt(key, self._salt, *self._cost)
        else:
            digest = hashlib.sha256(key).digest()
        return hmac.compare_digest(digest, self._digest)


def entry(
    name: str,
    hash_text: str,
    *,
    scopes: Sequence[Scope],
    rate: float | None = None,
    share: float | None = None,
) -> str:
    """Return the entry of a file of keys (TOML); `rate` and `share` are left out if None."""
    quoted = ", ".join(f'"{scope}"' for scope in scopes)
    lines = ["[[keys]]", f'name = "{name}"', f'hashes = ["{hash_text}"]', f"scopes = [{quoted}]"]
    lines += [f"rate = {rate:g}"] if rate is not None else []
    lines += [f"share = {share:g}"] if share is not None else []
    return "\n".join(lines) + "\n"


def _scrypt(key: bytes, salt: bytes, n: int, r: int, p: int) -> bytes:
    return hashlib.scrypt(
        key, salt=salt, n=n, r=r, p=p, maxmem=2 * _MAX_MEMORY, dklen=_DIGEST_BYTES
    )


def _check_cost(n: int, r: int, p: int) -> None:
    # RFC 7914, section 2: N is a power of two, and less than 2^(128 r / 8).
    is_possible = n >= 2 and not n & (n - 1) and r >= 1 and n.bit_length() <= 16 * r
    if not is_possible or not 1 <= p <= 4 or 128 * r * (n + p) > _MAX_MEMORY:
        raise ValueError("a cost that scrypt does not have, or that one request must not have")


def _encoded(content: bytes) -> str:
    return base64.b64encode(content).decode()
