"""Comparison of class names, which come from folders, files, manifests and requests."""

import unicodedata


def normalized(label: str) -> str:
    """Return the form in which labels are compared (Unicode NFC).

    An umlaut is one character or two, and both look the same: macOS writes two in file names, and
    keyboards one.
    """
    return unicodedata.normalize("NFC", label)


def longest_form(label: str) -> int:
    """Return the length of the longest text that compares equal to a label."""
    return len(unicodedata.normalize("NFD", label))
