"""Everything that needs a GPU, in one command.

`python -m bench.gpu` runs its parts in turn, each in a process and a time of its own, and writes
what they find into OUT/results.json as they go. What a part leaves unfinished does not stop the
next. `--smoke` runs all of it in miniature on a CPU.

`pack` and `unpack` bring what an isolated machine needs, in numbered parts.
"""

import argparse
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path

PARTS = ("check", "train", "teach", "serve", "parity")
RUNS_PART_BYTES = 15 << 20
"""Size of the files that the trained runs are packed into."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="python -m bench.gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART")
    made.add_argument("--out", type=Path, default=Path("build/gpu"), help="folder of the results")
    made.add_argument("--smoke", action="store_true", help="in miniature, on a CPU")
    made.add_argument("--in-this-process", choices=PARTS, help=argparse.SUPPRESS)
    return made


def main() -> int:
    """Run the parts; 1 if one failed, was stopped, or needs a GPU that is not there."""
    if sys.argv[1:2] in (["pack"], ["unpack"]):
        # What unpacks must run before anything is installed.
        from bench.gpu import packing

        return packing.main(sys.argv[1:])
    arguments = parser().parse_args()
    if arguments.in_this_process is not None:
        return run_part(arguments.in_this_process, arguments.out, smoke=arguments.smoke)
    import torch

    if not arguments.smoke and not torch.cuda.is_available():
        print("torch finds no GPU here: check the driver, or try --smoke", file=sys.stderr)
        return 1
    failed = [part for part in arguments.only if not start(part, arguments)]
    if "teach" in arguments.only:
        pack_runs(arguments.out)
    print(f"results: {arguments.out / 'results.json'}" + "".join(f"; {it} failed" for it in failed))
    return 1 if failed else 0


def start(part: str, arguments: argparse.Namespace) -> bool:
    """Run one part in a process of its own, within its time; whether all of it worked."""
    from bench.gpu.scale import FULL, SMOKE

    limit_s = (SMOKE if arguments.smoke else FULL).limit_s[part]
    command = [sys.executable, "-m", "bench.gpu", "--in-this-process", part]
    command += ["--out", str(arguments.out), *(["--smoke"] if arguments.smoke else [])]
    print(f"{part}: at most {limit_s:.0f} s", flush=True)
    process = subprocess.Popen(command)
    try:
        return process.wait(limit_s) == 0
    except subprocess.TimeoutExpired:
        print(f"{part}: stopped, its time is over", flush=True)
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        return False


def run_part(part: str, out: Path, *, smoke: bool) -> int:
    """Run one part in this process; 1 if a step of it failed."""
    # Leave by way of every `finally`, so that no server is left behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    import torch

    from bench.gpu.results import Deadline, Results
    from bench.gpu.scale import FULL, SMOKE

    scale = SMOKE if smoke else FULL
    device = torch.device("cpu" if smoke else "cuda")
    results = Results(out, part)
    deadline = Deadline(scale.limit_s[part])
    step = partial(_load_part(part, out), scale, device, results, deadline)
    results.attempt("part", step)
    return 1 if results.failed else 0


def _load_part(part: str, out: Path) -> Callable[..., None]:
    """The part's function. One part's missing library must not keep another from running."""
    module = import_module(f"bench.gpu.{'formats' if part == 'parity' else part}")
    run: Callable[..., None] = module.run
    return run if part in ("check", "train") else partial(run, folder=out)


def pack_runs(out: Path) -> None:
    """Put what the runs hold into numbered files, which `unpack` makes into run folders again."""
    from bench.gpu.numbered_parts import write_parts
    from bench.gpu.teach import KEPT, RUNS

    files = {
        str(path.relative_to(out)): path
        for path in sorted((out / RUNS).glob("*/*"))
        if path.name in KEPT
    }
    if files:
        write_parts(files, out / "runs-packed", part_bytes=RUNS_PART_BYTES)


if __name__ == "__main__":
    sys.exit(main())
