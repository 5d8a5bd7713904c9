"""JSON in shared memory: what is read is what was written, or nothing."""

import os
import subprocess
import sys
import threading

import pytest

from service.repository.shared_json import DESCRIPTOR, SharedJson


def test_each_slot_is_read_as_it_was_written() -> None:
    shared = SharedJson.create(workers=2)
    assert shared.read(0) is None
    shared.write(0, {"a": [1, "ä"]})
    shared.write(2, "x" * 100_000)
    assert shared.read(0) == {"a": [1, "ä"]}
    assert shared.read(1) is None
    assert shared.read(2) == "x" * 100_000
    shared.write(2, [])
    assert shared.read(2) == []


def test_slot_that_is_being_written_is_not_read() -> None:
    shared = SharedJson.create(workers=1)
    shared.write(0, {"generation": 1})
    os.pwrite(shared.descriptor, b"9", 8 + len(b'{"generation": '))
    assert shared.read(0) is None


def test_content_that_does_not_fit_is_rejected_and_the_slot_stays() -> None:
    shared = SharedJson.create(workers=1)
    shared.write(0, 1)
    with pytest.raises(ValueError, match="do not fit"):
        shared.write(0, "x" * (1 << 20))
    assert shared.read(0) == 1


def test_child_process_reads_and_reports() -> None:
    shared = SharedJson.create(workers=1)
    shared.write(0, {"generation": 7})
    code = (
        "from service.repository.shared_json import SharedJson;"
        "shared = SharedJson.inherited(); shared.write(1, shared.read(0)['generation'] + 1)"
    )
    subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {DESCRIPTOR: str(shared.descriptor)},
        pass_fds=[shared.descriptor],
        check=True,
    )
    assert shared.read(1) == 8


def test_processes_take_turns_and_a_death_ends_a_turn() -> None:
    shared = SharedJson.create(workers=1)
    code = (
        "import time\n"
        "from service.repository.shared_json import SharedJson\n"
        "with SharedJson.inherited().turn():\n"
        "    print(flush=True)\n"
        "    time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code],
        env=os.environ | {DESCRIPTOR: str(shared.descriptor)},
        pass_fds=[shared.descriptor],
        stdout=subprocess.PIPE,
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        mine = threading.Event()
        waiting = threading.Thread(target=lambda: _take(shared, mine), daemon=True)
        waiting.start()
        assert not mine.wait(0.3)
        other.kill()
        assert mine.wait(10)
    waiting.join()


def _take(shared: SharedJson, taken: threading.Event) -> None:
    with shared.turn():
        taken.set()
