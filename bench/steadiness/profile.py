"""Which libraries a service's CPU time goes to, by Linux's `perf`."""

import re
import shutil
import subprocess
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

_TIMES_A_SECOND = 499
_LINE = re.compile(r"^\s*([\d.]+)%\s+(\S+)")
# By how their names begin; all else is Python's: the interpreter, its modules and their libraries.
_KINDS = {"[kernel": "kernel", "[guest": "kernel", "onnxruntime": "ONNX Runtime"}


@contextmanager
def profiled(pids: Sequence[int]) -> Iterator[dict[str, float]]:
    """Sample the processes until the block ends; the shares of each kind of code are there then.

    They stay empty where there is no `perf`, or where it is not let near the counters.
    """
    shares: dict[str, float] = {}
    perf = shutil.which("perf")
    if perf is None:
        yield shares
        return
    with tempfile.TemporaryDirectory(prefix="limelight-perf-") as name:
        file = Path(name) / "perf.data"
        sampling = subprocess.Popen(
            [
                *(perf, "record", "--quiet", "--freq", str(_TIMES_A_SECOND)),
                *("--pid", ",".join(map(str, pids)), "--output", str(file)),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            yield shares
        finally:
            sampling.terminate()
            sampling.wait()
        done = subprocess.run(
            [perf, "report", "--input", str(file), "--sort", "dso", "--stdio", "--quiet"],
            check=False,
            capture_output=True,
            text=True,
        )
        shares.update(by_kind(done.stdout))


def by_kind(report: str) -> dict[str, float]:
    """Shares of the whole, out of what `perf report --sort dso` prints."""
    shares: defaultdict[str, float] = defaultdict(float)
    for line in report.splitlines():
        if found := _LINE.match(line):
            library = found[2]
            kinds = (kind for start, kind in _KINDS.items() if library.startswith(start))
            shares[next(kinds, "Python")] += float(found[1]) / 100
    return dict(shares)
