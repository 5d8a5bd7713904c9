"""`python -m pipeline`, for torchrun, too."""

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
    # DistributedDataParallel keeps threads of gloo after the end of their process group. If such a
    # thread still holds a tensor when the interpreter shuts down, it aborts the process. By now
    # all results have been written.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
sys.exit(status)
