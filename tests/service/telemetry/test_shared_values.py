"""Files of metrics: without room or folder the values stay, and they come back."""

import errno
import shutil
from collections.abc import Iterator
from io import BufferedRandom
from pathlib import Path

import pytest
from prometheus_client.mmap_dict import MmapedDict

from service.telemetry import shared_values
from service.telemetry.shared_values import SharedValues


@pytest.fixture(autouse=True)
def _own_list(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(SharedValues, "opened", [])
    yield
    for each in SharedValues.opened:
        each.close()  # type: ignore[no-untyped-call]


def stored(path: Path) -> dict[str, float]:
    entries = MmapedDict.read_all_values_from_file(path)  # type: ignore[no-untyped-call]
    return {key: value for key, value, _, _ in entries}


def write(values: SharedValues, key: str, value: float) -> None:
    values.write_value(key, value, 0.0)  # type: ignore[no-untyped-call]


def test_values_are_in_a_file_that_the_library_reads(tmp_path: Path) -> None:
    path = tmp_path / "new" / "counter_1.db"
    values = SharedValues(str(path))
    for number in range(2000):  # more than the first size of the file
        write(values, f"key of some length {number}", number)
    assert values.problem is None
    assert stored(path) == {f"key of some length {number}": number for number in range(2000)}
    assert path.stat().st_blocks * 512 >= path.stat().st_size  # no part of it is without room
    assert [each.name for each in path.parent.iterdir()] == ["counter_1.db"]
    again = SharedValues(str(path))  # of a later process with the same ID
    write(again, "key of some length 3", 33)
    assert stored(path)["key of some length 3"] == 33
    assert stored(path)["key of some length 4"] == 4


def test_without_room_values_stay_in_memory_until_there_is_some(tmp_path: Path) -> None:
    path = tmp_path / "counter_1.db"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shared_values, "_reserve", refuse)
        values = SharedValues(str(path))
        for number in range(2000):
            write(values, f"key of some length {number}", number)
        problem = shared_values.repair_all()
        assert problem is not None
        assert problem.errno == errno.ENOSPC
        assert list(tmp_path.iterdir()) == []
    assert shared_values.repair_all() is None
    assert stored(path) == {f"key of some length {number}": number for number in range(2000)}


def test_a_file_that_cannot_grow_keeps_its_values(tmp_path: Path) -> None:
    path = tmp_path / "counter_1.db"
    values = SharedValues(str(path))
    write(values, "first", 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shared_values, "_reserve", refuse)
        for number in range(2000):
            write(values, f"key of some length {number}", number)
        write(values, "first", 2)
        assert shared_values.repair_all() is not None
        assert stored(path)["first"] == 1  # as it was when the disk became full
    assert shared_values.repair_all() is None
    assert stored(path)["first"] == 2
    assert len(stored(path)) == 2001


def test_a_deleted_folder_is_made_again_with_all_values(tmp_path: Path) -> None:
    path = tmp_path / "metrics" / "counter_1.db"
    values = SharedValues(str(path))
    write(values, "first", 1)
    shutil.rmtree(path.parent)
    write(values, "second", 2)
    assert shared_values.repair_all() is None
    assert stored(path) == {"first": 1, "second": 2}
    write(values, "second", 3)
    assert stored(path)["second"] == 3


def refuse(file: BufferedRandom, size: int) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")
