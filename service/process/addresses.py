"""Addresses of the parent process: those that must be free, and those that nobody else reaches."""

import contextlib
import socket
import tempfile
from collections.abc import Iterable


def check_free(listening: Iterable[socket.socket], port: int) -> None:
    """Raise OSError if another program has `port` on an address that we listen on."""
    for each in listening:
        if each.family in (socket.AF_INET, socket.AF_INET6):
            with socket.socket(each.family) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((each.getsockname()[0], port))


def private_endpoints(stack: contextlib.ExitStack, *, reload: bool) -> dict[str, str]:
    """Return addresses for circus's commands and events that no other user of the machine reaches.

    Circus obeys whoever connects, and one of its commands starts programs. Nobody but this process
    needs them: the addresses are in its memory. Only the reloader of `bentoml serve --reload` is
    another process; the sockets are then in a folder of this user, which `stack` removes.
    """
    folder = "inproc://limelight-"
    if reload:
        folder = f"ipc://{stack.enter_context(tempfile.TemporaryDirectory(prefix='limelight-'))}/"
    return {"endpoint": f"{folder}commands", "pubsub_endpoint": f"{folder}events"}
