import subprocess
import sys

from tests.serving_kit import REPOSITORY

_PROGRAM = """
import sys
from service.process.malloc import limit_memory_growth

def resident_mb():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 / 1e6

assert limit_memory_growth()
bytearray(30_000_000)  # by default, glibc keeps blocks of this size from now on
before = resident_mb()
blocks = [bytearray(20_000_000) for _ in range(5)]
last = bytearray(1000)
del blocks
sys.exit(resident_mb() - before > 20)
"""


def test_memory_of_large_uploads_is_returned_to_the_system() -> None:
    """Runs in a separate process, because the settings last until it ends."""
    command = [sys.executable, "-c", _PROGRAM]
    assert subprocess.run(command, cwd=REPOSITORY, check=False).returncode == 0
