"""Load: wrk posts a fixed set of bodies in rotation and says how long the answers took."""

import json
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

# A server that needs longer than this for one answer has failed at it.
_TIMEOUT_S = 30
_MARK = "BENCH "

# wrk calls `request` for every request, so that all of them are made before the first.
_SCRIPT = """
local requests, at = {}, 0
function init(args)
  for i = 0, %(count)d - 1 do
    local file = assert(io.open("%(folder)s/" .. i, "rb"))
    local headers = {%(headers)s}
    requests[i + 1] = wrk.format("POST", "%(path)s", headers, file:read("*a"))
    file:close()
  end
end
function request()
  at = at %% #requests + 1
  return requests[at]
end
function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    '\\n%(mark)s{"requests": %%d, "duration_us": %%d, "connect": %%d, "read": %%d, ' ..
    '"write": %%d, "status": %%d, "timeout": %%d, "p50_us": %%d, "p99_us": %%d, ' ..
    '"max_us": %%d, "mean_us": %%f}\\n',
    summary.requests, summary.duration, e.connect, e.read, e.write, e.status, e.timeout,
    latency:percentile(50), latency:percentile(99), latency.max, latency.mean))
end
"""


class LoadError(Exception):
    """No load can be made; the message says why and what to do."""


class NothingAnsweredError(LoadError):
    """Not one request was, in all the time of a load."""


@dataclass(frozen=True, slots=True)
class Load:
    """What wrk saw. `errors` counts statuses from 400 up and connections that failed.

    Rates are those of good answers; latencies are those of all.
    """

    requests: int
    requests_per_s: float
    mean_ms: float
    p50_ms: float
    p99_ms: float
    max_ms: float
    errors: dict[str, int]


def wrk_path() -> str:
    """Where wrk is.

    Raises:
        LoadError: it is not installed.
    """
    path = shutil.which("wrk")
    if path is None:
        raise LoadError("wrk makes the load and is not installed: apt-get install wrk")
    return path


def wrk_version() -> str:
    """Its own word for it."""
    done = subprocess.run([wrk_path(), "--version"], check=False, capture_output=True, text=True)
    return done.stdout.split("[")[0].removeprefix("wrk ").strip()


def write_script(
    folder: Path, *, path: str, headers: Mapping[str, str], bodies: Sequence[bytes]
) -> Path:
    """Put the bodies and a script that posts them to `path` into `folder`; the script's path."""
    folder.mkdir(parents=True)
    for index, body in enumerate(bodies):
        (folder / str(index)).write_bytes(body)
    script = folder / "post.lua"
    values = {"count": len(bodies), "folder": folder, "path": path, "mark": _MARK}
    pairs = ", ".join(f'["{name}"] = "{value}"' for name, value in headers.items())
    script.write_text(_SCRIPT % {**values, "headers": pairs}, encoding="utf-8")
    return script


def run(script: Path, *, port: int, connections: int, seconds: float) -> Load:
    """Post for about `seconds` (whole ones for wrk, at least 1) over so many connections.

    Raises:
        LoadError: wrk failed, or not one request was answered.
    """
    command = [wrk_path(), "--threads", "1", "--connections", str(connections)]
    command += ["--duration", f"{max(1, round(seconds))}s", "--timeout", f"{_TIMEOUT_S}s"]
    command += ["--script", str(script), f"http://127.0.0.1:{port}"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise LoadError(f"wrk failed: {(done.stderr or done.stdout).strip()[-300:]}")
    return parse(done.stdout)


def parse(output: str) -> Load:
    """Read the line that the script's `done` wrote.

    Raises:
        LoadError: there is none.
        NothingAnsweredError: no request was answered.
    """
    line = next((line for line in output.splitlines() if line.startswith(_MARK)), None)
    if line is None:
        raise LoadError(f"wrk printed no summary: {output.strip()[-300:]}")
    said = json.loads(line.removeprefix(_MARK))
    if not said["requests"]:
        raise NothingAnsweredError(f"no request was answered: {line}")
    kinds = ("connect", "read", "write", "status", "timeout")
    return Load(
        requests=said["requests"],
        requests_per_s=(said["requests"] - said["status"]) / said["duration_us"] * 1e6,
        mean_ms=said["mean_us"] / 1000,
        p50_ms=said["p50_us"] / 1000,
        p99_ms=said["p99_us"] / 1000,
        max_ms=said["max_us"] / 1000,
        errors={kind: said[kind] for kind in kinds if said[kind]},
    )
