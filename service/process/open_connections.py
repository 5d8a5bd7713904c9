"""Open connections of a worker: their number, their time limits and their unread responses."""

import asyncio
import logging
import resource
from pathlib import Path

from service.http.uvicorn_protocol import Protocol
from service.settings import Settings

logger = logging.getLogger("limelight.accepting")

# Connections over the limit that are open at a time: those that wait for their rejection, or ask
# for health.
_SURPLUS = 8
# File descriptors for everything else: uploads, metrics, models, logs.
_SPARE_DESCRIPTORS = 16
_DESCRIPTORS = Path("/proc/self/fd")
# Share of the connections for gRPC, if it has a port.
_GRPC_SHARE = 0.25


def connection_limits(settings: Settings, connections: int = 0) -> tuple[int, int]:
    """Return the limits of this process for HTTP and for gRPC, by its free file descriptors.

    `connections` is the number of those that are open already. Raise the soft limit of the process
    if the settings need that.
    """
    used = sum(1 for _ in _DESCRIPTORS.iterdir()) if _DESCRIPTORS.exists() else 64
    others = (
        used
        - connections
        + _SURPLUS
        + _SPARE_DESCRIPTORS * (1 if settings.grpc_port is None else 2)
    )
    wanted = settings.max_connections * (1 if settings.grpc_port is None else 2)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < others + wanted:
        soft = others + wanted if hard == resource.RLIM_INFINITY else min(hard, others + wanted)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    room = wanted if soft == resource.RLIM_INFINITY else max(2, soft - others)
    grpc = 0 if settings.grpc_port is None else max(1, int(room * _GRPC_SHARE))
    return min(settings.max_connections, room - grpc), min(settings.max_connections, grpc)


class OpenConnections:
    """Open connections of a worker.

    Attributes:
        limit: maximum number of connections.
    """

    def __init__(self, settings: Settings) -> None:
        self._max_unsent_bytes = settings.max_unsent_bytes
        self.limit = settings.max_connections

    def set_limit(self, limit: int) -> None:
        """Lower the limit to what the process can have; log it if that is less than the setting."""
        if limit < self.limit:
            logger.warning(
                "a worker accepts %d connections instead of %d, because of its limit of open "
                "files: raise it (ulimit -n)",
                *(limit, self.limit),
            )
        self.limit = limit

    def make_room(self, connections: set[Protocol], connecting: int) -> bool:
        """Close connections if the limit is reached: those that have been idle for longest.

        Return False if the next connection is over the limit.
        """
        excess = len(connections) + connecting + 1 - self.limit
        if excess <= 0 or self.close_idle(connections, excess):
            return True
        surplus = [one for one in connections if one.surplus]
        if len(surplus) >= _SURPLUS:
            min(surplus, key=lambda one: one.since).abort()
        return False

    def close_idle(self, connections: set[Protocol], number: int = 1) -> bool:
        """Close the connections that have been idle for longest; return False if there are none.

        Those without a request so far come first.
        """
        idle = [one for one in connections if not one.surplus and one.can_be_closed()]
        idle.sort(key=lambda one: (one.cycle is not None, one.since))
        for one in idle[:number]:
            one.abort()
        return bool(idle)

    def close_late(self, connections: set[Protocol]) -> None:
        """Close the connections that have exceeded a limit; call this regularly."""
        now, unsent = asyncio.get_running_loop().time(), 0
        unread = []
        for one in list(connections):
            one.close_if_late(now)
            if one.unsent_bytes:
                unread.append(one)
                unsent += one.unsent_bytes
        unread.sort(key=lambda one: one.stalled_s(now), reverse=True)
        for one in unread[:-1]:  # a single response may exceed the limit
            if unsent <= self._max_unsent_bytes:
                break
            unsent -= one.unsent_bytes
            one.abort()
