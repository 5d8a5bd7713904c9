import asyncio
import gc
import threading
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from limelight.errors import ClientGone, DeadlineExceeded, LimelightError, NotReady, Overloaded
from service.inference.batching import Batcher, Row
from service.request_context import RequestContext

POISON = 255


def image(value: int) -> NDArray[np.uint8]:
    return np.full((2, 2, 1), value, np.uint8)


class Recorder:
    """Fake network that doubles its input, records its batches, fails on poison and can be held."""

    def __init__(self) -> None:
        self.batches: list[tuple[list[int], list[str]]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.concurrent, self.max_concurrent = 0, 1
        self.batch_s = 0.0
        self.rows: int | None = None

    def __call__(
        self, images_nhwc: NDArray[np.uint8], outputs: Sequence[str]
    ) -> dict[str, NDArray[np.float32]]:
        self.concurrent += 1
        assert self.concurrent <= self.max_concurrent
        assert self.gate.wait(5)
        time.sleep(self.batch_s)
        values = images_nhwc[:, 0, 0, 0]
        self.batches.append((values.tolist(), list(outputs)))
        self.concurrent -= 1
        if (values == POISON).any():
            raise RuntimeError("poison")
        return {name: values[: self.rows, None].astype(np.float32) * 2 for name in outputs}


async def until_running(recorder: Recorder) -> None:
    while recorder.concurrent == 0:
        await asyncio.sleep(0.001)


async def test_every_caller_gets_the_result_of_its_own_image() -> None:
    recorder = Recorder()
    batcher = Batcher(recorder, max_batch=7)
    results = await asyncio.gather(*(batcher.submit(image(i), ["a"]) for i in range(200)))
    assert [result["a"].tolist() for result in results] == [[2 * i] for i in range(200)]
    await batcher.close()


async def busy(batcher: Batcher, recorder: Recorder) -> asyncio.Task[Row]:
    """Start a batch that runs until the gate opens."""
    recorder.gate.clear()
    running = asyncio.create_task(batcher.submit(image(0), ["a"]))
    await until_running(recorder)
    return running


async def test_background_work_has_batches_of_its_own_which_nobody_else_waits_for() -> None:
    recorder = Recorder()
    recorder.max_concurrent = 2
    blocked = threading.Event()

    def run(images_nhwc: NDArray[np.uint8], outputs: Sequence[str]) -> dict[str, Any]:
        if images_nhwc[0, 0, 0, 0] >= 100 or "fine" in outputs:
            assert blocked.wait(5)
        return recorder(images_nhwc, outputs)

    batcher = Batcher(run, max_batch=8, expensive=frozenset({"fine"}))
    first = await busy(batcher, recorder)
    wanted = [["a"], ["a", "fine"], ["a"], ["fine"]]
    tasks = [
        asyncio.create_task(batcher.submit(image(i + 1), names)) for i, names in enumerate(wanted)
    ]
    masked = asyncio.create_task(
        batcher.submit_all(np.stack([image(100), image(101)]), ["a"], background=True)
    )
    await asyncio.sleep(0)
    recorder.gate.set()
    await asyncio.gather(first, tasks[0], tasks[2])
    assert [task.done() for task in (*tasks, masked)] == [True, False, True, False, False]
    assert recorder.batches == [([0], ["a"]), ([1, 3], ["a"])]
    blocked.set()
    rows = await asyncio.gather(*tasks)
    assert [sorted(row) for row in rows] == [sorted(names) for names in wanted]
    assert (await masked)["a"].tolist() == [[200], [202]]
    # Expensive outputs and masked images share no batch, and have none with the others.
    kinds = [{value >= 100 for value in values} for values, _ in recorder.batches]
    assert all(len(kind) == 1 for kind in kinds)
    await batcher.close()


async def test_images_that_arrive_during_a_batch_form_the_next_batch() -> None:
    recorder = Recorder()
    sizes: list[int] = []
    batcher = Batcher(recorder, max_batch=4, observe=lambda size, _: sizes.append(size))
    first = await busy(batcher, recorder)
    rest = [asyncio.create_task(batcher.submit(image(i), ["a"])) for i in range(1, 7)]
    await asyncio.sleep(0)
    assert batcher.depth == 6
    assert 0 < batcher.age_s < 5
    recorder.gate.set()
    await asyncio.gather(first, *rest)
    assert [values for values, _ in recorder.batches] == [[0], [1, 2, 3, 4], [5, 6]]
    assert sizes == [1, 4, 2]
    assert (batcher.depth, batcher.age_s) == (0, 0.0)


async def test_maps_are_computed_only_for_a_batch_that_requests_them() -> None:
    recorder = Recorder()
    batcher = Batcher(recorder, max_batch=2)
    first = await busy(batcher, recorder)
    wanted = [["p"], ["p"], ["p"], ["p", "cams"], ["p"]]
    tasks = [asyncio.create_task(batcher.submit(image(1), names)) for names in wanted]
    await asyncio.sleep(0)
    recorder.gate.set()
    results = await asyncio.gather(*tasks)
    await first
    assert [names for _, names in recorder.batches] == [["a"], ["p"], ["cams", "p"], ["p"]]
    assert [sorted(result) for result in results] == [sorted(names) for names in wanted]


async def test_one_bad_image_fails_alone() -> None:
    recorder = Recorder()
    batcher = Batcher(recorder, max_batch=32)
    first = await busy(batcher, recorder)
    tasks = [asyncio.create_task(batcher.submit(image(v), ["a"])) for v in (1, 2, POISON, 4)]
    await asyncio.sleep(0)
    recorder.gate.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    await first
    assert recorder.batches[1][0] == [1, 2, POISON, 4]
    assert isinstance(results[2], RuntimeError)
    assert [r["a"][0] for r in results if isinstance(r, dict)] == [2, 4, 8]
    assert (await batcher.submit(image(9), ["a"]))["a"] == [18]


async def test_cancelled_caller_is_skipped_and_the_others_are_answered() -> None:
    recorder = Recorder()
    batcher = Batcher(recorder, max_batch=8)
    running = await busy(batcher, recorder)
    waiting = [asyncio.create_task(batcher.submit(image(i), ["a"])) for i in (1, 2, 3)]
    await asyncio.sleep(0)
    running.cancel()
    waiting[1].cancel()
    await asyncio.sleep(0)
    recorder.gate.set()
    assert (await waiting[0])["a"] == [2]
    assert (await waiting[2])["a"] == [6]
    assert [values for values, _ in recorder.batches] == [[0], [1, 3]]


async def test_image_of_a_disconnected_client_is_not_computed() -> None:
    recorder = Recorder()
    batcher = Batcher(recorder, max_batch=8)
    running = await busy(batcher, recorder)
    left = asyncio.create_task(batcher.submit(image(1), ["a"], RequestContext(gone=lambda: True)))
    stayed = asyncio.create_task(batcher.submit(image(2), ["a"]))
    await asyncio.sleep(0)
    recorder.gate.set()
    await asyncio.gather(running, stayed)
    with pytest.raises(ClientGone):
        await left
    assert [values for values, _ in recorder.batches] == [[0], [2]]


async def test_image_past_its_deadline_is_not_computed() -> None:
    recorder = Recorder()
    batcher = Batcher(recorder, max_batch=8)
    running = await busy(batcher, recorder)
    soon = RequestContext(deadline=time.perf_counter() + 0.02)
    late = asyncio.create_task(batcher.submit(image(1), ["a"], soon))
    patient = asyncio.create_task(batcher.submit(image(2), ["a"]))
    await asyncio.sleep(0.05)
    recorder.gate.set()
    await asyncio.gather(running, patient)
    with pytest.raises(DeadlineExceeded) as rejected:
        await late
    assert 0 <= rejected.value.retry_after_s <= 1
    assert [values for values, _ in recorder.batches] == [[0], [2]]


async def test_request_that_would_miss_its_deadline_is_rejected_at_admission() -> None:
    recorder = Recorder()
    batcher = Batcher(recorder, max_batch=1)
    recorder.batch_s = 0.05
    await batcher.submit(image(0), ["a"])  # to measure the seconds per image
    hurried = RequestContext(deadline=time.perf_counter() + 0.08)
    with batcher.admission.admit(RequestContext()), batcher.admission.admit(RequestContext()):
        with pytest.raises(DeadlineExceeded, match=r"about 0\.1"), batcher.admission.admit(hurried):
            pass
        with batcher.admission.admit(RequestContext()):  # without a deadline
            pass
    with batcher.admission.admit(hurried):  # the queue is empty again
        pass


async def test_low_priority_requests_get_half_of_the_queue_and_of_the_time() -> None:
    recorder = Recorder()
    batcher = Batcher(recorder, max_batch=1, max_queued=4)
    recorder.batch_s = 0.05
    await batcher.submit(image(0), ["a"])
    with batcher.admission.admit(RequestContext()):
        context = RequestContext(deadline=time.perf_counter() + 0.15)
        with pytest.raises(DeadlineExceeded), batcher.admission.admit(context, low_priority=True):
            pass
        with batcher.admission.admit(context), batcher.admission.admit(RequestContext()):
            with (
                pytest.raises(Overloaded),
                batcher.admission.admit(RequestContext(), low_priority=True),
            ):
                pass
            with batcher.admission.admit(RequestContext()):
                pass


async def test_full_queue_rejects_with_retry_after() -> None:
    batcher = Batcher(Recorder(), max_batch=1, max_queued=2)
    with batcher.admission.admit(RequestContext()), batcher.admission.admit(RequestContext()):
        with pytest.raises(Overloaded) as rejected, batcher.admission.admit(RequestContext()):
            pass
        assert 0 <= rejected.value.retry_after_s <= 1
    with batcher.admission.admit(RequestContext()):
        pass


async def test_slow_batch_does_not_reject_requests_that_arrive_after_it() -> None:
    recorder = Recorder()
    batcher = Batcher(recorder, max_batch=1)
    recorder.batch_s = 0.2
    await batcher.submit(image(0), ["a"])
    recorder.batch_s = 0.0
    hurried = RequestContext(deadline=time.perf_counter() + 0.1)
    with batcher.admission.admit(hurried):
        assert (await batcher.submit(image(1), ["a"], hurried))["a"] == [2]


async def test_batches_run_concurrently_up_to_the_concurrency() -> None:
    recorder = Recorder()
    recorder.max_concurrent = 2
    batcher = Batcher(recorder, max_batch=1, concurrency=2)
    recorder.gate.clear()
    tasks = [asyncio.create_task(batcher.submit(image(i), ["a"])) for i in range(4)]
    while recorder.concurrent < 2:
        await asyncio.sleep(0.001)
    recorder.gate.set()
    assert [(await task)["a"][0] for task in tasks] == [0, 2, 4, 6]
    await batcher.close()


async def test_stages_of_a_call_are_recorded() -> None:
    batcher = Batcher(Recorder(), max_batch=1)
    context = RequestContext()
    before = time.perf_counter()
    await batcher.submit(image(1), ["a"], context)
    (queue, q0, q1), (compute, c0, c1) = context.stages
    assert (queue, compute) == ("queue", "compute")
    assert before <= q0 <= q1 <= c0 <= c1 <= time.perf_counter()


async def test_close_finishes_waiting_images_and_rejects_new_ones() -> None:
    recorder = Recorder()
    batcher = Batcher(recorder, max_batch=1)
    tasks = [asyncio.create_task(batcher.submit(image(i), ["a"])) for i in range(3)]
    await asyncio.sleep(0)
    await batcher.close()
    assert [(await task)["a"][0] for task in tasks] == [0, 2, 4]
    with pytest.raises(NotReady):
        await batcher.submit(image(1), ["a"])


async def test_images_are_rerun_one_by_one_if_the_network_returns_too_few_rows() -> None:
    recorder = Recorder()
    batcher = Batcher(recorder, max_batch=2)
    first = await busy(batcher, recorder)
    tasks = [asyncio.create_task(batcher.submit(image(i), ["a"])) for i in (1, 2)]
    await asyncio.sleep(0)
    recorder.rows = 1
    recorder.gate.set()
    assert [(await task)["a"][0] for task in tasks] == [2, 4]  # each was run again on its own
    await first
    assert [values for values, _ in recorder.batches] == [[0], [1, 2], [1], [2]]


def images(*values: int) -> NDArray[np.uint8]:
    return np.stack([image(value) for value in values])


async def test_images_of_one_caller_stay_together_and_share_a_batch_if_they_fit() -> None:
    recorder = Recorder()
    sizes: list[int] = []
    batcher = Batcher(recorder, max_batch=4, observe=lambda size, _: sizes.append(size))
    first = await busy(batcher, recorder)
    tasks = [
        asyncio.create_task(batcher.submit_all(images(*values), ["a"]))
        for values in ([1, 2], [3], [4, 5, 6], [7], [8, 9, 10, 11])
    ]
    await asyncio.sleep(0)
    assert batcher.depth == 11
    recorder.gate.set()
    await first
    found = [(await task)["a"].tolist() for task in tasks]
    assert found == [[[2], [4]], [[6]], [[8], [10], [12]], [[14]], [[16], [18], [20], [22]]]
    batches = [values for values, _ in recorder.batches]
    assert batches == [[0], [1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    assert sizes == [1, 3, 4, 4]
    assert batcher.depth == 0


async def test_more_images_than_a_batch_are_split_and_recorded_as_one_call() -> None:
    recorder = Recorder()
    recorder.batch_s = 0.02
    batcher = Batcher(recorder, max_batch=4)
    context = RequestContext()
    found = await batcher.submit_all(images(*range(10)), ["a", "b"], context)
    assert found["a"].tolist() == found["b"].tolist() == [[2 * value] for value in range(10)]
    assert [len(values) for values, _ in recorder.batches] == [4, 4, 2]
    (queue, q0, q1), (compute, c0, c1) = context.stages
    assert (queue, compute) == ("queue", "compute")
    assert q0 <= q1 == c0 < c1 - 0.06 + 1e-9


async def test_bad_image_fails_only_its_caller() -> None:
    recorder = Recorder()
    batcher = Batcher(recorder, max_batch=8)
    first = await busy(batcher, recorder)
    tasks = [
        asyncio.create_task(batcher.submit_all(images(*values), ["a"]))
        for values in ([1, 2], [3, POISON], [4])
    ]
    await asyncio.sleep(0)
    recorder.gate.set()
    good, bad, alone = await asyncio.gather(*tasks, return_exceptions=True)
    await first
    assert isinstance(bad, RuntimeError)
    assert not isinstance(good, BaseException)
    assert not isinstance(alone, BaseException)
    assert (good["a"].tolist(), alone["a"].tolist()) == ([[2], [4]], [[8]])
    many = await asyncio.gather(
        batcher.submit_all(images(*range(9), POISON), ["a"]), return_exceptions=True
    )
    assert isinstance(many[0], RuntimeError)


async def test_close_finishes_images_that_did_not_fit_into_the_last_batch() -> None:
    recorder = Recorder()
    batcher = Batcher(recorder, max_batch=2)
    first = await busy(batcher, recorder)
    tasks = [
        asyncio.create_task(batcher.submit_all(images(*values), ["a"])) for values in ([1], [2, 3])
    ]
    await asyncio.sleep(0)
    closing = asyncio.create_task(batcher.close())
    await asyncio.sleep(0)
    recorder.gate.set()
    await asyncio.gather(closing, first)
    assert [len((await task)["a"]) for task in tasks] == [1, 2]
    assert [values for values, _ in recorder.batches] == [[0], [1], [2, 3]]


@pytest.mark.parametrize("rejection", [ClientGone, DeadlineExceeded])
async def test_rejection_leaves_no_reference_cycles(
    rejection: type[LimelightError],
) -> None:
    batcher = Batcher(Recorder(), max_batch=4)
    calls = {
        ClientGone: (image(1), RequestContext(gone=lambda: True)),
        DeadlineExceeded: (image(1), RequestContext(deadline=time.perf_counter() - 1)),
    }

    async def one() -> None:
        with pytest.raises(rejection):
            await batcher.submit(calls[rejection][0], ["a"], calls[rejection][1])

    await one()
    gc.collect()
    gc.disable()
    try:
        for _ in range(20):
            await one()
        await asyncio.sleep(0)
        assert gc.collect() < 20
    finally:
        gc.enable()
    await batcher.close()
