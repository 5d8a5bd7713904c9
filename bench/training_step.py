"""Speed of one training step of the cifar10 recipe on this machine, in each variant.

`python -m bench.training_step` times float32 and bfloat16, images contiguous and channels-last, and
torch.compile, in turns, and prints how many times as fast as plain float32 each is. With `--memory`
it compares processes whose malloc keeps freed memory, as in training, with others on a CPU.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
from collections.abc import Callable
from itertools import product

import torch
from torch import nn

from bench.common.spread import Spread
from bench.common.turns import take_turns
from pipeline.training.device import choose_device, reuse_freed_memory, uses_bfloat16
from pipeline.training.recipe import Recipe
from pipeline.training.weights import make_network

FORMATS = {"contiguous": torch.contiguous_format, "channels-last": torch.channels_last}


def make_step(
    recipe: Recipe,
    device: torch.device,
    *,
    bfloat16: bool,
    memory_format: torch.memory_format,
    compiled: bool = False,
) -> Callable[[], None]:
    """A training step on one random batch: forward, loss, backward, update."""
    torch.manual_seed(0)
    network = make_network(recipe, channels=3, classes=10).to(device)
    network = network.to(memory_format=memory_format)
    images = torch.randn(recipe.batch_size, 3, 32, 32, device=device)
    images = images.contiguous(memory_format=memory_format)
    forward = torch.compile(network) if compiled else network
    labels = torch.randint(10, (recipe.batch_size,), device=device)
    optimizer = torch.optim.SGD(network.parameters(), 0.01, momentum=0.9, nesterov=True)

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
            logits = forward(images)
        loss = nn.functional.cross_entropy(logits.float(), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if device.type == "cuda":
            torch.cuda.synchronize()

    return step


def measure_step(repeats: int, *, reuse: bool) -> tuple[float, float]:
    """Median seconds of a step in this process, and its peak memory in MiB."""
    device = torch.device("cpu")
    if reuse and not reuse_freed_memory(device):
        raise SystemExit("this C library's malloc has no such settings")
    step = make_step(
        Recipe.load("cifar10"), device, bfloat16=uses_bfloat16(device),
        memory_format=torch.channels_last,
    )  # fmt: skip
    seconds = take_turns({0: step}, repeats=repeats, seconds=0)[0]
    return statistics.median(seconds), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def compare_memory(repeats: int) -> None:
    """Print how much faster steps are, and how much more memory they take, if it is reused."""
    speed, memory = [], []
    for _ in range(repeats):
        found = {}
        for reuse in (False, True):
            call = f"bench.training_step.measure_step({repeats}, reuse={reuse})"
            code = f"import bench.training_step, json; print(json.dumps({call}))"
            done = subprocess.run(
                [sys.executable, "-c", code], check=True, capture_output=True, text=True
            )
            found[reuse] = json.loads(done.stdout)
        speed.append(found[False][0] / found[True][0])
        memory.append(found[True][1] / found[False][1])
    print(f"{torch.get_num_threads()} threads, {repeats} pairs of processes, {repeats} steps each")
    print(f"freed memory is reused: {Spread.of(speed).shown()} times as fast")
    print(f"peak memory: {Spread.of(memory).shown()} times as much")


def main() -> None:
    """Time the variants and print them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()
    if arguments.memory:
        compare_memory(arguments.repeats)
        return
    recipe, device = Recipe.load("cifar10"), choose_device(arguments.device)
    steps = {
        (precision, name): make_step(
            recipe, device, bfloat16=precision == "bfloat16", memory_format=layout
        )
        for precision, (name, layout) in product(("float32", "bfloat16"), FORMATS.items())
    }
    steps["bfloat16", "compiled"] = make_step(
        recipe, device, bfloat16=True, memory_format=torch.channels_last, compiled=True
    )
    seconds = take_turns(steps, repeats=arguments.repeats, seconds=0)
    base = statistics.median(seconds["float32", "contiguous"])
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    print(f"{name}, {torch.get_num_threads()} threads, {arguments.repeats} steps each;")
    print(f"training uses {'bfloat16' if uses_bfloat16(device) else 'float32'}, channels-last")
    for (precision, layout), times in seconds.items():
        ratio = Spread.of(base / value for value in times).shown()
        print(f"{precision:9} {layout:14} {ratio} times as fast")


if __name__ == "__main__":
    main()
