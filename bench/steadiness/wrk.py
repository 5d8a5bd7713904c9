"""wrk, the load generator of others, as a check on our own."""

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from bench.steadiness.client import HOST

_SCRIPT = """
wrk.method = "POST"
wrk.body = io.open("{body}", "rb"):read("*a")
"""


@dataclass(frozen=True, slots=True)
class WrkResult:
    """What wrk printed."""

    requests_a_second: float
    failed: int
    """Answers other than 2xx and 3xx, and errors of sockets."""


def wrk(port: int, target: str, body: bytes, *, connections: int, seconds: float) -> WrkResult:
    """Post `body` for so long over so many connections, always busy, with one thread.

    Raises:
        FileNotFoundError: wrk is not installed.
        subprocess.CalledProcessError: wrk failed.
    """
    with tempfile.TemporaryDirectory(prefix="limelight-wrk-") as folder:
        (Path(folder) / "body").write_bytes(body)
        (Path(folder) / "post.lua").write_text(_SCRIPT.format(body=Path(folder) / "body"))
        command = ["wrk", "--threads", "1", "--connections", str(connections)]
        command += ["--duration", f"{max(1, round(seconds))}s", "--timeout", "30s"]
        command += ["--script", f"{folder}/post.lua", f"http://{HOST}:{port}{target}"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    return parse(done.stdout)


def parse(text: str) -> WrkResult:
    """Read wrk's report.

    Raises:
        ValueError: this is none.
    """
    rate = re.search(r"^Requests/sec: +([\d.]+)$", text, re.MULTILINE)
    if rate is None:
        raise ValueError(f"not a report of wrk: {text[:200]!r}")
    statuses = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
    sockets = re.search(
        r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", text
    )
    failed = int(statuses[1]) if statuses else 0
    failed += sum(map(int, sockets.groups())) if sockets else 0
    return WrkResult(float(rate[1]), failed)
