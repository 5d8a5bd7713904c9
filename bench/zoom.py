"""What a closer look (`zoom=true` of `/explain`) brings where the object is small.

`python -m bench.zoom` puts test images of CIFAR-10, enlarged, somewhere on backgrounds that show
nothing, asks the service in this process, and writes how often it is right at first and on the
closer look, and how often its map points at the object. `--tune` tries other cuts
(`limelight.explanations.zoom`), on training images: nothing is chosen by the test set. CIFAR-10
has to be in the cache: `limelight data fetch cifar10`.
"""

import argparse
import asyncio
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from unittest import mock

import numpy as np
from service.inference.in_process import in_process

from bench.explaining.looks import Looks, look_at
from bench.explaining.zoom_report import Report, Row, render, render_cuts, summarise
from limelight.client.client import AsyncClient
from limelight.explanations import zoom as zooming
from pipeline.data.registry import Split, load_dataset
from pipeline.data.synthetic_scenes import make_scene
from pipeline.errors import DataError
from service.settings import Settings

MODEL = "cifar10"
SIZE = 256
SIDES = (64, 96, 128)
CUTS = (0.7, 0.85, 1.0, 1.2, 1.5)
# What is better for small objects must not be paid for with those that fill the image.
TUNED_SIDES = (*SIDES, 192, 256)
_TOGETHER = 16


async def look_at_all(
    split: Split,
    client: AsyncClient,
    *,
    side: int,
    scenes: int,
    seed: int,
    model: str = MODEL,
    size: int = SIZE,
) -> list[Looks]:
    """Make so many scenes of different images of a split, and have the service look at them."""
    rng = np.random.default_rng((seed, side))
    chosen = rng.choice(len(split), scenes, replace=False)
    free = asyncio.Semaphore(_TOGETHER)

    async def one(index: int, scene_seed: np.random.SeedSequence) -> Looks:
        async with free:
            own = np.random.default_rng(scene_seed)
            scene = make_scene(split.images[index], own, side=side, size=size)
            return await look_at(scene, int(split.labels[index]), client, model=model)

    seeds = np.random.SeedSequence((seed, side)).spawn(scenes)
    return await asyncio.gather(*map(one, chosen.tolist(), seeds))


async def measure(
    split: Split, *, data: str, sides: Sequence[int], cuts: Sequence[float], scenes: int, seed: int
) -> Report:
    """Every size of the object with every cut."""
    rows: list[Row] = []
    async with in_process(Settings(device="cpu")) as client:
        models = {each["name"]: each["version"] for each in await client.models()}
        for side in sides:
            for cut in cuts:
                with mock.patch.object(zooming, "_CUT", cut):
                    looks = await look_at_all(split, client, side=side, scenes=scenes, seed=seed)
                rows.append(summarise(looks, side=side, cut=cut))
                print(_line(rows[-1]), flush=True)
    return Report(
        date=datetime.now(UTC).strftime("%Y-%m-%d"),
        model=f"{MODEL} {models[MODEL]}",
        data=data,
        size=SIZE,
        scenes=scenes,
        seed=seed,
        rows=rows,
    )


def _line(row: Row) -> str:
    return (
        f"object of {row.side} px, cut {row.cut:.2f}: right at first {row.first.value:.1%}, on "
        f"the closer look {row.closer.value:.1%}, the more confident {row.surer.value:.1%}"
    )


def main() -> int:
    """Measure, print and write; 1 where the data is not there."""
    parser = argparse.ArgumentParser(prog="python -m bench.zoom", description=__doc__)
    parser.add_argument("--scenes", type=int, default=500, help="for each size of the object")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--to", type=Path, default=Path("build"), help="folder of the tables")
    parser.add_argument("--tune", action="store_true", help="other cuts, on training images")
    arguments = parser.parse_args()
    try:
        dataset = load_dataset(MODEL)
    except DataError as error:
        print(error, file=sys.stderr)
        return 1
    tune = arguments.tune
    report = asyncio.run(
        measure(
            dataset.train if tune else dataset.test,
            data="training images of CIFAR-10" if tune else "test images of CIFAR-10",
            sides=TUNED_SIDES if tune else SIDES,
            cuts=CUTS if tune else (zooming._CUT,),
            scenes=arguments.scenes,
            seed=arguments.seed,
        )
    )
    markdown = render_cuts(report) if tune else render(report)
    print("\n" + markdown, end="")
    report.write(arguments.to, "zoom-cut" if tune else "zoom", markdown)
    return 0


if __name__ == "__main__":
    sys.exit(main())
