import subprocess
import sys

from tests.serving_kit import REPOSITORY

_PROGRAM = """
import sys
from service.system.malloc import limit_memory_growth

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


_TRIMMING = """
from service.system.malloc import Trimmer, limit_memory_growth, resident_bytes

assert limit_memory_growth()
trimmer, before = Trimmer(0), resident_bytes()
blocks = [bytearray(50_000) for _ in range(2_000)]
last = bytearray(50_000)
del blocks
assert resident_bytes() - before > 80_000_000
trimmer.trim()
assert resident_bytes() - before < 20_000_000
blocks = [bytearray(50_000) for _ in range(2_000)]
later = bytearray(50_000)
del blocks
Trimmer(3600).trim()
assert resident_bytes() - before > 80_000_000
"""


def test_memory_of_many_small_blocks_is_returned_when_it_is_time() -> None:
    command = [sys.executable, "-c", _TRIMMING]
    done = subprocess.run(command, cwd=REPOSITORY, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
