"""Files of keys for the tests."""

from collections.abc import Sequence
from pathlib import Path

from limelight.api_keys import Scope, entry, hash_key

KEYS = {name: f"ll_{name:a<43}" for name in ("shop", "maps", "scraper", "chief")}
"""Keys by name, in the form of generated ones."""
SCOPES: dict[str, Sequence[Scope]] = {
    "shop": ("predict",),
    "maps": ("predict", "explain"),
    "scraper": ("metrics",),
    "chief": ("predict", "explain", "metrics", "admin"),
}


def keys_text(*, more: str = "", **keys: str) -> str:
    """Return a file with these keys by name; by default those of `KEYS`."""
    chosen = keys or KEYS
    text = "\n".join(
        entry(name, hash_key(key), scopes=SCOPES.get(name, ("predict", "explain")))
        for name, key in chosen.items()
    )
    return text + more


def replace(file: Path, text: str) -> None:
    """Write a file so that nobody sees a part of it."""
    part = file.with_suffix(".part")
    part.write_text(text)
    part.replace(file)


def bearer(name: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {KEYS[name]}"}
