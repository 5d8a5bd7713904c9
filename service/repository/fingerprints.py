"""Fingerprints of the versions on disk, which tell that the files of a version have changed."""

from collections.abc import Mapping
from pathlib import Path

Fingerprint = tuple[tuple[str, int, int], ...]
"""Name, size and modification time of each file of an artefact."""


def fingerprints(found: Mapping[str, Mapping[str, Path]]) -> dict[str, Fingerprint]:
    """Return the fingerprint of each version, by NAME/VERSION."""
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
