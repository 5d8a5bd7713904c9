"""Files with the same bytes: the same image in two classes, or in two parts of a data set."""

import logging

_MOST_NAMED = 5

logger = logging.getLogger(__name__)


class Duplicates:
    """Finds files with the same bytes among those that are added."""

    def __init__(self) -> None:
        self._first: dict[str, tuple[str, str, str]] = {}
        self._found: dict[str, list[str]] = {}

    def add(self, digest: str, name: str, *, label: str, part: str) -> None:
        """Add a file of a class in a part, by the digest of its bytes."""
        first, first_label, first_part = self._first.setdefault(digest, (name, label, part))
        if first == name:
            return
        if first_label != label:
            kind = "in two classes, so one label is wrong"
        elif first_part != part:
            kind = f"in {first_part} and in {part}, so the figures of {part} are too good"
        else:
            kind = "there twice, and may be both trained on and held out"
        self._found.setdefault(kind, []).append(f"{first} = {name}")

    def report(self) -> None:
        """Log a warning for each kind of duplicate, with the first files of it."""
        for kind, pairs in self._found.items():
            more = f" and {len(pairs) - _MOST_NAMED:,} more" if len(pairs) > _MOST_NAMED else ""
            named = ", ".join(pairs[:_MOST_NAMED])
            count = "1 image is" if len(pairs) == 1 else f"{len(pairs):,} images are"
            logger.warning("%s %s: %s%s", count, kind, named, more)
