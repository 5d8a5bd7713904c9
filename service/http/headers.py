"""Headers of responses, by the names that several files need."""

Header = tuple[bytes, bytes]
"""Name in lower case and value, as in ASGI."""

CLOSE: Header = (b"connection", b"close")
NOSNIFF: Header = (b"x-content-type-options", b"nosniff")
"""Header of every response: a browser must not guess another type from the content."""
