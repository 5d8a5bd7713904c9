"""JSON in shared memory: what is read is what was written, or nothing."""

import os
import subprocess
import sys

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
