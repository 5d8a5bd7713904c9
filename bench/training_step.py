"""Speed of one training step of the cifar10 recipe on this machine, in each variant.

`python -m bench.training_step` times float32 and bfloat16, images contiguous and channels-last, and
torch.compile, in turns, and prints how many times as fast as plain float32 each is.
"""

import argparse
import statistics
from collections.abc import Callable
from itertools import product

import torch
from torch import nn

from bench.common.spread import Spread
from bench.common.turns import take_turns
from pipeline.training.device import choose_device, uses_bfloat16
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


def main() -> None:
    """Time the variants and print them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()
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
