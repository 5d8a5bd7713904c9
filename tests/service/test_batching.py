import asyncio
import threading
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from service.batching import Batcher
from service.errors import NotReady, Overloaded

POISON = 255


def image(value: int) -> NDArray[np.uint8]:
    return np.full((2, 2, 1), value, np.uint8)


class Recorder:
    """A network that doubles; it notes its batches, fails on poison, and waits at its gate."""

    def __init__(self) -> None:
        self.batches: list[tuple[list[int], list[str]]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.concurrent = 0

    def __call__(
        self, images_nhwc: NDArray[np.uint8], outputs: Sequence[str]
    ) -> dict[str, NDArray[np.float32]]:
        self.concurrent += 1
        assert self.concurrent == 1
        assert self.gate.wait(5)
        values = images_nhwc[:, 0, 0, 0]
        self.batches.append((values.tolist(), list(outputs)))
        self.concurrent -= 1
        if (values == POISON).any():
            raise RuntimeError("poison")
        return {name: values[:, None].astype(np.float32) * 2 for name in outputs}


async def until_running(recorder: Recorder) -> None:
    while recorder.concurrent == 0:
        await asyncio.sleep(0.001)


async def test_every_caller_gets_the_result_of_its_own_image() -> None:
    recorder = Recorder()
    batcher = Batcher(recorder, max_batch=7)
    results = await asyncio.gather(*(batcher.submit(image(i), ["a"]) for i in range(200)))
    assert [result["a"].tolist() for result in results] == [[2 * i] for i in range(200)]
    await batcher.close()


async def test_what_arrived_while_a_batch_ran_is_the_next_batch() -> None:
    recorder = Recorder()
    sizes: list[int] = []
    batcher = Batcher(recorder, max_batch=4, observe=sizes.append)
    recorder.gate.clear()
    first = asyncio.create_task(batcher.submit(image(0), ["a"]))
    await until_running(recorder)
    rest = [asyncio.create_task(batcher.submit(image(i), ["a"])) for i in range(1, 7)]
    await asyncio.sleep(0)
    recorder.gate.set()
    await asyncio.gather(first, *rest)
    assert [values for values, _ in recorder.batches] == [[0], [1, 2, 3, 4], [5, 6]]
    assert sizes == [1, 4, 2]


async def test_maps_are_fetched_only_for_a_batch_that_needs_them() -> None:
    recorder = Recorder()
    batcher = Batcher(recorder, max_batch=2)
    wanted = [["p"], ["p"], ["p"], ["p", "cams"], ["p"]]
    results = await asyncio.gather(*(batcher.submit(image(1), names) for names in wanted))
    assert [names for _, names in recorder.batches] == [["p"], ["cams", "p"], ["p"]]
    assert [sorted(result) for result in results] == [sorted(names) for names in wanted]


async def test_one_bad_image_fails_alone() -> None:
    recorder = Recorder()
    batcher = Batcher(recorder, max_batch=32)
    values = [1, 2, POISON, 4]
    results = await asyncio.gather(
        *(batcher.submit(image(value), ["a"]) for value in values), return_exceptions=True
    )
    assert isinstance(results[2], RuntimeError)
    assert [r["a"][0] for r in results if isinstance(r, dict)] == [2, 4, 8]
    assert (await batcher.submit(image(9), ["a"]))["a"] == [18]


async def test_a_cancelled_caller_is_skipped_and_strands_nobody() -> None:
    recorder = Recorder()
    batcher = Batcher(recorder, max_batch=8)
    recorder.gate.clear()
    running = asyncio.create_task(batcher.submit(image(0), ["a"]))
    await until_running(recorder)
    waiting = [asyncio.create_task(batcher.submit(image(i), ["a"])) for i in (1, 2, 3)]
    await asyncio.sleep(0)
    running.cancel()
    waiting[1].cancel()
    await asyncio.sleep(0)
    recorder.gate.set()
    assert (await waiting[0])["a"] == [2]
    assert (await waiting[2])["a"] == [6]
    assert [values for values, _ in recorder.batches] == [[0], [1, 3]]


async def test_a_full_queue_refuses_and_says_when_to_come_back() -> None:
    recorder = Recorder()
    batcher = Batcher(recorder, max_batch=1, max_queued=2)
    recorder.gate.clear()
    tasks = [asyncio.create_task(batcher.submit(image(0), ["a"]))]
    await until_running(recorder)
    tasks += [asyncio.create_task(batcher.submit(image(i), ["a"])) for i in (1, 2)]
    await asyncio.sleep(0)
    with pytest.raises(Overloaded) as refused:
        await batcher.submit(image(3), ["a"])
    assert refused.value.headers == {"Retry-After": "1"}
    recorder.gate.set()
    assert len(await asyncio.gather(*tasks)) == 3


async def test_closing_finishes_what_waits_and_refuses_the_rest() -> None:
    recorder = Recorder()
    batcher = Batcher(recorder, max_batch=1)
    tasks = [asyncio.create_task(batcher.submit(image(i), ["a"])) for i in range(3)]
    await asyncio.sleep(0)
    await batcher.close()
    assert [(await task)["a"][0] for task in tasks] == [0, 2, 4]
    with pytest.raises(NotReady):
        await batcher.submit(image(1), ["a"])


async def test_a_network_that_loses_a_row_fails_rather_than_mixing_answers() -> None:
    batcher = Batcher(lambda images, names: {"a": np.zeros((1, 1), np.float32)}, max_batch=2)
    results = await asyncio.gather(
        *(batcher.submit(image(i), ["a"]) for i in range(2)), return_exceptions=True
    )
    assert all(isinstance(result, dict) for result in results)  # each was run again, alone
