"""Versions on disk: which of them can be served, and why the others are refused."""

from collections.abc import Collection, Iterable
from pathlib import Path

from service.repository.source import find_models

OnDisk = dict[str, dict[str, Path]]
"""Versions on disk: name -> version, newest first -> folder."""
Fingerprint = tuple[tuple[str, int, int], ...]
"""Name, size and modification time of each file of an artefact."""

_MAX_REASON = 2000


class VersionsOnDisk:
    """Versions in a folder of artefacts or another source, as of the last look; see `find_models`.

    A version that is refused stays so until its files change.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._found: OnDisk = {}
        self._prints: dict[str, Fingerprint] = {}
        self._whole: set[str] = set()
        self._refused: dict[str, tuple[Fingerprint, str]] = {}

    def find(self) -> OnDisk:
        """Return what is on disk now, and do not remember it.

        Raises:
            ArtifactError, OSError: it cannot be read.

        """
        return find_models(self._root)

    def look(self, *, at_once: bool = False) -> set[str]:
        """Look at the disk, and return the refused versions whose files have changed.

        They are no longer refused. A version that is still being copied changes from one look to
        the next, so it can be served after the second look that finds it the same. With `at_once`
        the second look follows immediately.

        Raises:
            ArtifactError, OSError: it cannot be read.

        """
        self._found = self.find()
        before = _fingerprints(self._found) if at_once else self._prints
        self._prints = _fingerprints(self._found)
        self._whole = {key for key, found in self._prints.items() if before.get(key) == found}
        changed = {key for key, (seen, _) in self._refused.items() if self._prints.get(key) != seen}
        self.allow(changed)
        return changed

    def usable(self, served: Collection[str] | None = None) -> OnDisk:
        """Return the versions that can be served.

        Those of `served` may be changing, and all of them at the start, when nothing is served.
        """
        return {
            name: {
                version: folder
                for version, folder in versions.items()
                if (key := f"{name}/{version}") not in self._refused
                and (served is None or key in self._whole or key in served)
            }
            for name, versions in self._found.items()
        }

    def sizes(self) -> dict[str, int]:
        """Return the bytes of each version's largest graph, by NAME/VERSION."""
        return {
            key: max((size for name, size, _ in files if ".onnx" in name), default=0)
            for key, files in self._prints.items()
        }

    def refuse(self, key: str, reason: str) -> None:
        """Refuse a version, NAME/VERSION."""
        self._refused[key] = self._prints.get(key, ()), reason[:_MAX_REASON]

    def allow(self, keys: Iterable[str]) -> None:
        """Try these versions again."""
        for key in keys:
            self._refused.pop(key, None)

    @property
    def refused(self) -> dict[str, str]:
        """The reasons of the refused versions, by NAME/VERSION."""
        return {key: reason for key, (_, reason) in self._refused.items()}


def _fingerprints(found: OnDisk) -> dict[str, Fingerprint]:
    return {
        f"{name}/{version}": _fingerprint(folder)
        for name, versions in found.items()
        for version, folder in versions.items()
    }


def _fingerprint(folder: Path) -> Fingerprint:
    entries = []
    try:
        for file in sorted(folder.iterdir()):
            status = file.stat()
            entries.append((file.name, status.st_size, status.st_mtime_ns))
    except OSError:
        return ()
    return tuple(entries)
