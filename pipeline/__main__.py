"""`python -m pipeline`, which torchrun starts too."""

import os
import sys

from pipeline.cli.main import main


def _run() -> int:
    try:
        main()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


status = _run()
if "WORLD_SIZE" in os.environ:
    # A thread of gloo may still hold a tensor of Python's (DistributedDataParallel keeps these
    # threads past the end of their group), and aborts the process when the interpreter is gone
    # before it lets go. What is to be kept has been written.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
sys.exit(status)
