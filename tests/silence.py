"""Watching a command and its children: whom they ask and reach in the network, what they write."""

import ipaddress
import os
import re
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

# Python runs this file at its start. Audit events see look-ups that a hosts file answers.
_RECORDER = """
import os, sys
def record(event, arguments):
    if event in {"socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"}:
        target = arguments[0]
    elif event in {"socket.connect", "socket.sendto", "socket.sendmsg"}:
        target = arguments[1][0] if isinstance(arguments[1], tuple) else None
    else:
        return
    if target is not None:
        if isinstance(target, bytes):
            target = target.decode()
        file = os.open(os.environ["SILENCE_LOG"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.write(file, f"{event} {target}\\n".encode())
        os.close(file)
sys.addaudithook(record)
"""
_ADDRESS = re.compile(r'htons\((\d+)\).*?(?:inet_addr\(|AF_INET6, )"([^"]+)"')


@dataclass(frozen=True)
class Watch:
    """Watch of a command that gets `variables` and is run by `tracer`.

    Without strace, only Python code is watched in the network, and what is written.
    """

    folder: Path

    @property
    def home(self) -> Path:
        """Empty home folder of the command."""
        return self.folder / "home"

    @property
    def tracer(self) -> list[str]:
        """Command that also sees what native code does, and keeps the process ID, if possible."""
        if not _can_trace():
            return []
        calls = "trace=connect,sendto,sendmsg,sendmmsg"
        return ["strace", "-D", "-f", "-qq", "-e", calls, "-o", str(self.folder / "calls")]

    @property
    def variables(self) -> dict[str, str | None]:
        """Variables of the command; a user sets none of those that are None."""
        unset = ("BENTOML_HOME", "BENTOML_DO_NOT_TRACK", "ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME")
        return {
            "HOME": str(self.home),
            "SILENCE_LOG": str(self.folder / "events"),
            "PYTHONPATH": f"{self.folder}:{os.environ.get('PYTHONPATH', '')}",
            **dict.fromkeys(unset),
        }

    def reached(self) -> set[str]:
        """Return the names looked up and the addresses reached, except on this machine."""
        found = set()
        events = self.folder / "events"
        for line in events.read_text().splitlines() if events.exists() else ():
            event, _, target = line.partition(" ")
            if target != "localhost" and not _is_local(target):
                found.add(f"{event} {target}")
        calls = self.folder / "calls"
        for line in calls.read_text(errors="replace").splitlines() if calls.exists() else ():
            for port, address in _ADDRESS.findall(line):
                # A resolver is often a program on this machine.
                if port == "53" or not _is_local(address):
                    found.add(f"{address}:{port}")
        return found

    def written(self) -> list[str]:
        """Return the files in the home folder."""
        return [str(path.relative_to(self.home)) for path in self.home.rglob("*") if path.is_file()]


def begin_watch(folder: Path) -> Watch:
    """Prepare a watch."""
    watch = Watch(folder)
    watch.home.mkdir(parents=True)
    (folder / "sitecustomize.py").write_text(_RECORDER)
    return watch


@cache
def _can_trace() -> bool:
    try:
        return subprocess.run(["strace", "-qq", "true"], check=False).returncode == 0
    except FileNotFoundError:
        return False


def _is_local(address: str) -> bool:
    try:
        known = ipaddress.ip_address(address)
    except ValueError:
        return False
    return known.is_loopback or known.is_unspecified
