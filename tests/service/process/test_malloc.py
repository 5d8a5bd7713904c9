import subprocess
import sys

from tests.serving_kit import REPOSITORY

_PROGRAM = """
import sys
from service.process.malloc import limit_memory_growth

def resident_mb():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 / 1e6

assert limit_memory_growth()
bytearray(30_000_000)  # after which glibc, left alone, keeps blocks of this size at hand
before = resident_mb()
blocks = [bytearray(20_000_000) for _ in range(5)]
last = bytearray(1000)
del blocks
sys.exit(resident_mb() - before > 20)
"""


def test_what_large_uploads_took_goes_back_to_the_system() -> None:
    """In a process of its own: the settings hold until its end."""
    command = [sys.executable, "-c", _PROGRAM]
    assert subprocess.run(command, cwd=REPOSITORY, check=False).returncode == 0
