"""Watch over workers: deaths that are logged, and workers that hang."""

import os
import signal
import time

import pytest

from service.process.worker_status import WorkerStatus
from service.process.worker_watch import NoWorkerStartsError, WorkerWatch


def make(*, workers: int = 2, timeout_s: float = 2.0) -> tuple[WorkerWatch, WorkerStatus]:
    """Make a watch with this process as worker 1, and the status that it publishes."""
    shared = WorkerStatus.create(2 * workers)
    watch = WorkerWatch(shared, workers=workers, timeout_s=timeout_s)
    watch.begun(os.getpid(), 1)
    return watch, WorkerStatus(shared.descriptor, worker=0)


def test_a_worker_that_publishes_is_not_hung() -> None:
    watch, status = make()
    for _ in range(20):
        status.publish(3)
        assert watch.check(0.5) == []


def test_a_silent_worker_is_aborted_and_then_killed(caplog: pytest.LogCaptureFixture) -> None:
    watch, status = make()
    status.publish(3)
    assert [watch.check(0.5) for _ in range(4)] == [[]] * 4
    assert watch.check(0.5) == [(os.getpid(), signal.SIGABRT)]
    assert watch.check(0.5) == [(os.getpid(), signal.SIGKILL)]
    assert caplog.text.count("has hung for 2 s") == 1
    watch.ended(os.getpid(), signal.SIGKILL, stopping=False)
    assert watch.check(0.5) == []


def test_a_worker_that_starts_may_be_silent_for_ten_times_as_long() -> None:
    watch, _ = make()
    assert [watch.check(0.5) for _ in range(39)] == [[]] * 39
    assert watch.check(0.5) == [(os.getpid(), signal.SIGABRT)]


def test_a_worker_does_not_inherit_the_signs_of_life_of_an_earlier_process() -> None:
    watch, status = make()
    status.publish(3)
    watch.check(0.5)
    watch.ended(os.getpid(), signal.SIGKILL, stopping=False)
    watch.begun(os.getpid(), 1)
    assert [watch.check(0.5) for _ in range(10)] == [[]] * 10


def test_without_a_timeout_no_worker_is_hung() -> None:
    watch, status = make(timeout_s=0)
    status.publish(0)
    assert [watch.check(0.5) for _ in range(100)] == [[]] * 100


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (signal.SIGBUS, "worker 1 (process {pid}) was killed by SIGBUS after 0 s"),
        (signal.SIGKILL, "killed by SIGKILL (the kernel sends it if memory runs out)"),
        (3 << 8, "exited with status 3"),
        (40, "was killed by signal 40"),
    ],
)
def test_a_death_is_logged_with_its_cause_and_number(
    status: int, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    watch, worker = make()
    watch.ended(os.getpid(), status, stopping=False)
    assert said.format(pid=os.getpid()) in caplog.text
    assert "Workers that died since the start: 1" in caplog.text
    assert worker.deaths == 1


def test_the_end_of_other_processes_and_while_stopping_is_no_death(
    caplog: pytest.LogCaptureFixture,
) -> None:
    watch, worker = make()
    watch.ended(os.getpid() + 1, signal.SIGKILL, stopping=False)
    watch.ended(os.getpid(), signal.SIGKILL, stopping=True)
    assert (caplog.text, worker.deaths) == ("", 0)


def test_deaths_end_the_start_only_while_no_worker_has_served() -> None:
    watch, status = make(workers=1)
    for _ in range(2):
        watch.begun(os.getpid(), 1)
        watch.ended(os.getpid(), 1 << 8, stopping=False)
    watch.begun(os.getpid(), 1)
    with pytest.raises(NoWorkerStartsError, match="3 workers died, and none has served"):
        watch.ended(os.getpid(), 1 << 8, stopping=False)
    watch, status = make(workers=1)
    status.publish(0)
    watch.check(0.5)
    for _ in range(10):
        watch.begun(os.getpid(), 1)
        watch.ended(os.getpid(), 1 << 8, stopping=False)


def test_the_lowest_count_is_that_of_another_living_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    shared = WorkerStatus.create(4)
    first, second, third = (WorkerStatus(shared.descriptor, worker=each) for each in range(3))
    assert first.least() is None
    first.publish(1)
    second.publish(5)
    third.publish(7)
    assert (first.least(), second.least(), third.least()) == (5, 1, 1)
    now = time.monotonic()
    monkeypatch.setattr("service.process.worker_status.time.monotonic", lambda: now + 2)
    third.publish(7)
    assert first.least() == 7  # the second's count is old
