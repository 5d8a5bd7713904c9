"""Names of files and folders that systems hide, or leave beside a user's own."""

_LEFT_BY_SYSTEMS = frozenset({"__macosx", "@eadir", "thumbs.db", "desktop.ini"})


def is_hidden(name: str) -> bool:
    """Tell whether a file or folder of this name is no data of the user's."""
    return name.startswith(".") or name.casefold() in _LEFT_BY_SYSTEMS
