"""What Linux says of processes: their children, their memory, their connections."""

import os
import re
import socket
from contextlib import suppress
from pathlib import Path

_PROC = Path("/proc")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def descendants(pid: int) -> list[int]:
    """Children of a process, and theirs; none where it is gone."""
    found: list[int] = []
    for task in (_PROC / str(pid) / "task").glob("*/children"):
        with suppress(OSError):
            for child in map(int, task.read_text().split()):
                found += [child, *descendants(child)]
    return sorted(found)


def command_line(pid: int) -> str:
    """A process's command and arguments; empty where it is gone or a zombie."""
    try:
        return (_PROC / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def resident_bytes(pid: int) -> int:
    """Memory of a process that is in RAM."""
    return int((_PROC / str(pid) / "statm").read_text().split()[1]) * _PAGE_BYTES


def cpu_seconds(pid: int) -> float:
    """CPU time that a process has used; 0 where it is gone."""
    try:
        fields = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def machine_cpu_seconds() -> float:
    """CPU time that all processes have used since the machine started, stolen time included."""
    user, nice, system, _idle, _waiting, *others = (
        int(value) for value in (_PROC / "stat").read_text().split(maxsplit=9)[1:9]
    )
    return (user + nice + system + sum(others)) / os.sysconf("SC_CLK_TCK")


def client_ports(pid: int) -> set[int]:
    """The other side's port of each established TCP connection (IPv4) that a process holds."""
    inodes = set()
    for descriptor in (_PROC / str(pid) / "fd").iterdir():
        with suppress(OSError):
            if match := re.fullmatch(r"socket:\[(\d+)\]", str(descriptor.readlink())):
                inodes.add(match[1])
    return remote_ports((_PROC / "net/tcp").read_text(), inodes)


def remote_ports(table: str, inodes: set[str]) -> set[int]:
    """Established connections in the text of /proc/net/tcp that belong to `inodes`."""
    rows = (line.split() for line in table.splitlines()[1:])
    established = "01"
    return {
        int(row[2].partition(":")[2], 16)
        for row in rows
        if row[3] == established and row[9] in inodes
    }


def free_port() -> int:
    """A port on loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
