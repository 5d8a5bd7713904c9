"""A text as numbers: reading, vocabulary, and the split into training and validation."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.data.text_files import TEXTS, cached_text, normalised, text_sha256
from pipeline.errors import DataError

UNKNOWN = "\ufffd"
"""Character that stands for all that are too rare; it is the first of every vocabulary."""
MIN_COUNT = 3
VALIDATION = 0.2

Codes = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Characters by their number; number 0 is `UNKNOWN`."""

    characters: str

    def __len__(self) -> int:
        return len(self.characters)

    def encode(self, text: str) -> Codes:
        """Return the numbers of the lower-cased characters; those it lacks become 0."""
        numbers = {character: number for number, character in enumerate(self.characters)}
        return np.array([numbers.get(character, 0) for character in text.lower()], np.int64)

    def decode(self, codes: Iterable[int]) -> str:
        """Return the characters of these numbers."""
        return "".join(self.characters[code] for code in codes)


@dataclass(frozen=True, kw_only=True, slots=True)
class Corpus:
    """A text, split into its beginning, to train on, and its end, to validate on."""

    source: str
    """Name of a published text, or the absolute path of a file."""
    sha256: str
    """Digest of the text with LF and without a byte order mark."""
    vocabulary: Vocabulary
    training: Codes
    validation: Codes


def read_corpus(
    source: str, *, validation: float = VALIDATION, vocabulary: Vocabulary | None = None
) -> Corpus:
    """Read a text and split it.

    The last part validates, and not a random sample: windows of a random sample overlap those that
    are trained on, and a state that goes on needs a text that goes on. The characters are counted
    in the training part alone.

    Args:
        source: name of a published text, or path of a UTF-8 file.
        validation: share of the text that validates.
        vocabulary: that of a run; by default, the characters seen at least three times.

    Raises:
        DataError: the text cannot be read, or is too short.

    """
    file = text_file(source)
    try:
        content = normalised(file.read_bytes())
        text = content.decode("utf-8").lower()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file} cannot be read ({error}); choose a UTF-8 text") from error
    cut = len(text) - round(len(text) * validation)
    if not 0 < cut < len(text):
        raise DataError(f"{file} has {len(text)} characters, which is too short to be split")
    vocabulary = vocabulary or vocabulary_of(text[:cut])
    if len(vocabulary) < 2:
        raise DataError(
            f"{file} has no character {MIN_COUNT} times; choose a longer text, of an alphabet"
        )
    codes = vocabulary.encode(text)
    return Corpus(
        source=source if source in TEXTS else str(file.resolve()),
        sha256=text_sha256(content),
        vocabulary=vocabulary,
        training=codes[:cut],
        validation=codes[cut:],
    )


def vocabulary_of(text: str, min_count: int = MIN_COUNT) -> Vocabulary:
    """Return `UNKNOWN` and the characters that the text has at least `min_count` times, sorted."""
    counts = Counter(text)
    frequent = sorted(each for each, count in counts.items() if count >= min_count)
    return Vocabulary(UNKNOWN + "".join(each for each in frequent if each != UNKNOWN))


def text_file(source: str) -> Path:
    """Return the file of a text: a published one in the cache, or the path itself.

    Raises:
        DataError: it is not there.

    """
    if source in TEXTS and not Path(source).is_file():
        return cached_text(source)
    file = Path(source)
    if not file.is_file():
        raise DataError(
            f"{source} is neither a text file nor one of {', '.join(TEXTS)}; name a UTF-8 file"
        )
    return file


def entropy(codes: Codes) -> float:
    """Return the loss of guessing by the frequencies of the characters alone, in nats."""
    counts = np.bincount(codes).astype(np.float64)
    shares = counts[counts > 0] / len(codes)
    return float(-(shares * np.log(shares)).sum())
