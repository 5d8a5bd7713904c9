"""Headers of responses, by the names that several files need."""

Header = tuple[bytes, bytes]
"""Name in lower case and value, as in ASGI."""

CLOSE: Header = (b"connection", b"close")
NOSNIFF: Header = (b"x-content-type-options", b"nosniff")
"""Header of every response: a browser must not guess another type from the content."""
VERSION_HEADER, DIGEST_HEADER = "x-model-version", "x-model-digest"
"""Headers of every answer of a model: NAME/VERSION, and the digest of its files."""
