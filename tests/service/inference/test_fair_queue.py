"""The fair queue: whose item is next."""

import threading
from collections import Counter

import pytest

from service.inference.fair_queue import FairQueue


def fill(
    queue: FairQueue[str], caller: str, number: int, *, weight: float = 1, cost: float = 1
) -> None:
    for _ in range(number):
        queue.put(caller, caller, weight=weight, images=1, cost=cost)


def test_one_caller_is_served_in_order() -> None:
    queue: FairQueue[int] = FairQueue()
    for number in range(5):
        queue.put(number, "", weight=1, images=number + 1, cost=10 - number)
    assert bool(queue)
    assert queue.images == 1 + 2 + 3 + 4 + 5
    assert queue.heads() == [0]
    assert [queue.take() for _ in range(5)] == list(range(5))
    assert not queue
    with pytest.raises(IndexError):
        queue.take()


def test_backlogged_callers_are_served_by_their_weights() -> None:
    queue: FairQueue[str] = FairQueue()
    fill(queue, "one", 200)
    fill(queue, "three", 200, weight=3)
    served = Counter(queue.take() for _ in range(100))
    assert abs(served["three"] - 75) <= 2


def test_cost_counts_and_not_the_number_of_items() -> None:
    queue: FairQueue[str] = FairQueue()
    fill(queue, "expensive", 50, cost=10)
    fill(queue, "cheap", 50)
    served = Counter(queue.take() for _ in range(44))
    assert abs(served["cheap"] - 40) <= 1


def test_newcomer_waits_for_no_flood_and_has_saved_up_no_time() -> None:
    queue: FairQueue[str] = FairQueue()
    fill(queue, "flood", 1000, cost=32)
    for _ in range(500):
        queue.take()
    fill(queue, "newcomer", 100, cost=32)
    served = [queue.take() for _ in range(100)]
    assert "newcomer" in served[:2]
    assert abs(served.count("newcomer") - 50) <= 2


def test_short_item_goes_before_a_long_one_that_came_earlier() -> None:
    queue: FairQueue[str] = FairQueue()
    fill(queue, "long", 2, cost=32)
    queue.take()
    fill(queue, "short", 1)
    assert queue.take() == "short"


def test_item_that_does_not_fit_stays_the_next_one() -> None:
    queue: FairQueue[str] = FairQueue()
    queue.put("large", "a", weight=1, images=8, cost=1)
    queue.put("small", "b", weight=1, images=1, cost=8)
    assert queue.take_fitting(7) is None
    assert queue.take_fitting(8) == "large"
    assert queue.take_fitting(8) == "small"


def test_every_item_is_taken_once_by_many_threads() -> None:
    queue: FairQueue[tuple[str, int]] = FairQueue()
    taken: list[tuple[str, int]] = []

    def put(caller: str) -> None:
        for number in range(500):
            queue.put((caller, number), caller, weight=1, images=1, cost=1)

    def take() -> None:
        while len(taken) < 2000:
            try:
                taken.append(queue.take())
            except IndexError:
                continue

    threads = [threading.Thread(target=put, args=(name,)) for name in "abcd"]
    threads += [threading.Thread(target=take) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(taken) == len(set(taken)) == 2000
