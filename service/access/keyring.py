"""Keyring: finds the caller of a key, and follows the file of keys as it changes."""

import asyncio
import hashlib
import logging
import secrets
from collections.abc import Callable
from pathlib import Path

from limelight.api_keys import MAX_KEY_LENGTH
from limelight.errors import Overloaded
from service.access.keys_file import Entry, KeysFileError, read_keys
from service.caller import Caller

logger = logging.getLogger("limelight.access")

POLL_S = 0.5
"""Interval at which the file is looked at. A change counts when it was seen twice."""
# Unknown keys whose comparison with slow hashes is remembered, or waits.
_MAX_REFUSED, _MAX_WAITING = 1024, 32

Signature = tuple[int, int, int, int]
"""What tells two states of a file apart: time, size, inode and device, behind any links."""


class _Keys:
    """Keys of one state of the file.

    Attributes:
        known: hash of each key that was sent and is right, by the key's fingerprint.
    """

    def __init__(self, entries: tuple[Entry, ...], known: dict[bytes, str]) -> None:
        self.callers = {entry.hash.text: entry.caller for entry in entries}
        self.fast = [entry.hash for entry in entries if not entry.hash.slow]
        self.slow = [entry.hash for entry in entries if entry.hash.slow]
        self.known = {each: text for each, text in known.items() if text in self.callers}
        self.refused: dict[bytes, None] = {}
        """Fingerprints of keys that match no slow hash."""


class Keyring:
    """Keys of a file. While a new state of the file is broken, the keys before it stay valid.

    Args:
        path: file of keys; see `service.access.keys_file`.
        on_state: called with the number of names after each reading, and with True if the newest
            state is broken.

    Attributes:
        problem: why the newest state of the file is not used; None: it is.
    """

    def __init__(self, path: Path, on_state: Callable[[int, bool], None]) -> None:
        self._path = path
        self._on_state = on_state
        self.problem: str | None = None
        self._keys = _Keys((), {})
        # A fingerprint is a hash under a key of this process: the time to look one up tells nobody
        # anything about the hashes in the file.
        self._secret = secrets.token_bytes(32)
        self._checking = asyncio.Lock()
        self._waiting = 0
        self._signature = _signature(path)
        self._load()

    @property
    def is_empty(self) -> bool:
        """True while no state of the file could be read."""
        return not self._keys.callers

    @property
    def has_slow(self) -> bool:
        """True if a key that `find` does not find may be one of `find_slow`."""
        return bool(self._keys.slow)

    def find(self, key: bytes) -> Caller | None:
        """Return the caller of a key; None if it is unknown, or if only `find_slow` knows it."""
        if len(key) > MAX_KEY_LENGTH:
            return None
        keys, fingerprint = self._keys, self._fingerprint(key)
        text = keys.known.get(fingerprint)
        if text is None:
            # Every hash is compared, so that the time does not tell which one matched.
            matching = [each.text for each in keys.fast if each.matches(key)]
            if not matching:
                return None
            text = keys.known[fingerprint] = matching[0]
        return keys.callers[text]

    async def find_slow(self, key: bytes) -> Caller | None:
        """Compare a key with the scrypt hashes, in a thread, one key at a time; None if unknown.

        Raises:
            Overloaded: too many unknown keys wait to be compared.
        """
        keys, fingerprint = self._keys, self._fingerprint(key)
        if len(key) > MAX_KEY_LENGTH or fingerprint in keys.refused:
            return None
        if self._waiting >= _MAX_WAITING:
            raise Overloaded("too many new keys are being checked: try again", retry_after_s=1)
        self._waiting += 1
        try:
            async with self._checking:
                if fingerprint not in keys.known and fingerprint not in keys.refused:
                    text = await asyncio.to_thread(_matching, keys, key)
                    if text is None:
                        keys.refused[fingerprint] = None
                        if len(keys.refused) > _MAX_REFUSED:
                            del keys.refused[next(iter(keys.refused))]
                    else:
                        keys.known[fingerprint] = text
        finally:
            self._waiting -= 1
        text = keys.known.get(fingerprint)
        # The file may have changed meanwhile.
        return None if text is None else self._keys.callers.get(text)

    async def watch(self) -> None:
        """Read the file again whenever it has changed; runs until it is cancelled."""
        before = self._signature
        while True:
            await asyncio.sleep(POLL_S)
            now = await asyncio.to_thread(_signature, self._path)  # a network may hold the file
            # A file that still changes may be half written.
            if now == before and now != self._signature:
                self._signature = now
                await asyncio.to_thread(self._load)
            before = now

    def _load(self) -> None:
        try:
            self._keys = _Keys(read_keys(self._path), self._keys.known)
        except KeysFileError as error:
            self.problem = str(error)
            kept = "no key is valid" if self.is_empty else "the keys before it stay valid"
            logger.error("%s is not used, and %s: %s", self._path, kept, error)
        else:
            self.problem = None
            names = sorted({caller.name for caller in self._keys.callers.values()})
            logger.info("%s has keys of %d name(s): %s", self._path, len(names), ", ".join(names))
        callers = {caller.name for caller in self._keys.callers.values()}
        self._on_state(len(callers), self.problem is not None)

    def _fingerprint(self, key: bytes) -> bytes:
        return hashlib.blake2b(key, key=self._secret, digest_size=16).digest()


def _matching(keys: _Keys, key: bytes) -> str | None:
    matching = [each.text for each in keys.slow if each.matches(key)]
    return matching[0] if matching else None


def _signature(path: Path) -> Signature | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino, found.st_dev
