"""Images in a file: decoded once, by several processes, and read again when they are needed."""

import errno
import fcntl
import os
import shutil
import threading
import time
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from pipeline.atomic_files import UnwritableError
from pipeline.data.dataset import Dataset
from pipeline.data.decoding import image_cache, image_worker, worker_processes
from pipeline.data.decoding.image_cache import Record, opened_cache
from pipeline.data.image_rules import photo_rule
from pipeline.data.reading_options import Reading
from pipeline.data.registry import load_dataset
from pipeline.data.stored_images import ImageFile, StoredImages, in_batches
from pipeline.errors import DataError
from tests.full_disk import file_size_limit

SIZE = 16


def write_photo(path: Path, level: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 30), (level, 255 - level, 7)).save(path)


@pytest.fixture
def folder(tmp_path: Path, cache: Path) -> Path:
    for number in range(6):
        write_photo(tmp_path / "data" / "ab"[number % 2] / f"{number}.png", 40 * number)
    return tmp_path / "data"


def load(folder: Path, **options: object) -> Dataset:
    reading = Reading(**options)  # type: ignore[arg-type]
    return load_dataset(str(folder), image_size=SIZE, reading=reading)


def levels(dataset: Dataset) -> set[int]:
    """First grey level of each image."""
    splits = (dataset.train, dataset.test)
    return {int(image[0, 0, 0]) for split in splits for image in split.images[:]}


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    names: list[str] = []

    def read(path: Path, *rest: object) -> Record:
        names.append(path.name)
        return image_worker.read_image(path, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(worker_processes, "read_image", read)
    return names


def test_images_are_decoded_once(folder: Path, decoded: list[str]) -> None:
    first = load(folder)
    assert sorted(decoded) == [f"{number}.png" for number in range(6)]
    decoded.clear()
    again = load(folder)
    assert decoded == []
    assert again.sha256 == first.sha256
    assert levels(again) == {0, 40, 80, 120, 160, 200}


def test_images_are_decoded_once_from_every_working_folder(
    folder: Path, decoded: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = load(folder)
    decoded.clear()
    (tmp_path / "beside").mkdir()
    (tmp_path / "beside" / "link").symlink_to(folder)
    monkeypatch.chdir(tmp_path / "beside")
    for path in ("../data", "link"):
        again = load(Path(path))
        assert (again.sha256, again.train.files) == (first.sha256, first.train.files)
    monkeypatch.chdir(folder)
    assert load(Path()).train.files == first.train.files
    assert decoded == []


def test_only_new_and_changed_files_are_decoded_again(folder: Path, decoded: list[str]) -> None:
    load(folder)
    decoded.clear()
    write_photo(folder / "a" / "6.png", 250)
    write_photo(folder / "b" / "1.png", 111)
    os.utime(folder / "b" / "1.png", ns=(1, 1))
    (folder / "a" / "0.png").unlink()
    assert levels(load(folder)) == {250, 111, 80, 120, 160, 200}
    assert sorted(decoded) == ["1.png", "6.png"]


def test_interrupted_reading_is_continued(folder: Path, cache: Path, decoded: list[str]) -> None:
    whole = load(folder).sha256
    (journal,) = cache.glob("images/*/journal.jsonl")
    lines = journal.read_text().splitlines(keepends=True)
    # As a kill leaves it: the last line is incomplete.
    journal.write_text("".join(lines[:3]) + lines[3][:20])
    decoded.clear()
    assert load(folder).sha256 == whole
    assert len(decoded) == 3


def test_unreadable_file_is_tried_again(folder: Path, decoded: list[str]) -> None:
    (folder / "a" / "broken.png").write_bytes(b"nothing")
    assert len(load(folder).skipped) == 1
    decoded.clear()
    assert len(load(folder).skipped) == 1
    assert decoded == ["broken.png"]


def test_cache_of_mostly_deleted_images_is_emptied(
    folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_cache, "_SPARE_ROWS", 0)
    for number in range(10, 30):
        write_photo(folder / "a" / f"{number}.png", number)
    load(folder)
    (pixels,) = cache.glob("images/*/pixels")
    before = pixels.stat().st_size
    for number in range(10, 30):
        (folder / "a" / f"{number}.png").unlink()
    assert levels(load(folder)) == {0, 40, 80, 120, 160, 200}
    assert pixels.stat().st_size == before * 6 / 26


def test_unused_caches_are_deleted(folder: Path, cache: Path) -> None:
    old = cache / "images" / "old"
    old.mkdir(parents=True)
    os.utime(old, (0, 0))
    load(folder)
    assert not old.exists()
    assert len(list((cache / "images").iterdir())) == 1


def test_worker_processes_give_the_same_images(
    folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = load(folder).sha256
    shutil.rmtree(cache)
    monkeypatch.setattr(worker_processes, "_FEW", 0)
    monkeypatch.setattr(worker_processes, "_CHUNK", 1)
    monkeypatch.setattr(worker_processes, "read_image", None)
    told: list[tuple[int, int]] = []
    dataset = load(folder, workers=2, progress=lambda done, total: told.append((done, total)))
    assert dataset.sha256 == expected
    assert told == [(done, 6) for done in range(1, 7)]


@pytest.fixture
def run_as_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Function that lets a program decode all images, in the place of `image_worker`."""

    def replace(program: str) -> None:
        file = tmp_path / "worker.py"
        file.write_text(program)
        monkeypatch.setattr(worker_processes, "_FEW", 0)
        monkeypatch.setattr(worker_processes, "image_worker", SimpleNamespace(__file__=str(file)))

    return replace


def test_file_that_ends_its_process_is_skipped_and_named(
    folder: Path, cache: Path, run_as_worker: Callable[[str], None]
) -> None:
    run_as_worker(
        "import os, pipeline.data.decoding.image_worker as worker\n"
        "read = worker.read_image\n"
        "def fragile(path, *rest):\n"
        "    if path.name == '3.png': os._exit(9)\n"
        "    return read(path, *rest)\n"
        "worker.read_image = fragile\n"
        "worker.main()\n"
    )
    dataset = load(folder, workers=1)
    (skipped,) = dataset.skipped
    assert skipped.endswith("b/3.png: the process that decoded it was ended")
    assert levels(dataset) == {0, 40, 80, 160, 200}


def test_second_process_says_that_it_waits_for_the_first(
    folder: Path, cache: Path, decoded: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    load(folder)
    decoded.clear()
    (lock,) = cache.glob("images/*/lock")
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        other = threading.Thread(target=load, args=(folder,))
        other.start()
        deadline = time.monotonic() + 30
        while not caplog.messages and time.monotonic() < deadline:
            time.sleep(0.01)
        assert other.is_alive()
        assert caplog.messages == [f"waiting for another process that reads the images in {folder}"]
    other.join(30)
    assert not other.is_alive()
    assert decoded == []


def test_cache_is_locked_until_the_last_worker_has_ended(tmp_path: Path, cache: Path) -> None:
    """If a command is killed, its workers finish their chunks; no other one may use their rows."""
    rule = photo_rule(SIZE)
    with opened_cache(tmp_path, rule) as opened:
        opened.reserve(1)
        worker = worker_processes._Worker(rule, opened)
    (lock,) = cache.glob("images/*/lock")
    with lock.open("w") as other:
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        worker.close()
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_full_disk_is_said_before_anything_is_read(
    folder: Path, decoded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(9, 9, 0))
    with pytest.raises(DataError, match=r"needs 0\.0 GB for 6 images.*set XDG_CACHE_HOME"):
        load(folder)
    assert decoded == []


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("rows", [2.5, 5.9])
def test_full_disk_while_images_are_decoded_is_an_error_and_leaves_no_corrupt_image(
    rows: float, workers: int, folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = load(folder).sha256
    shutil.rmtree(cache)
    if workers:
        monkeypatch.setattr(worker_processes, "_FEW", 0)
        monkeypatch.setattr(worker_processes, "_CHUNK", 1)
    with (
        file_size_limit(int(rows * SIZE * SIZE * 3)),
        pytest.raises(UnwritableError, match=r"written: File too large; set XDG_CACHE_HOME"),
    ):
        load(folder, workers=workers or None)
    again = load(folder)
    assert again.sha256 == expected
    assert not again.skipped


def test_full_disk_is_an_error_where_files_are_decoded_one_by_one(
    folder: Path, cache: Path, run_as_worker: Callable[[str], None]
) -> None:
    run_as_worker(
        "import json, os, sys\n"
        "for line in sys.stdin:\n"
        "    if len(json.loads(line)) > 1: os._exit(9)\n"
        "    print(json.dumps('No space left on device'), flush=True)\n"
    )
    with pytest.raises(UnwritableError, match="written: No space left on device; set XDG"):
        load(folder, workers=1)


def test_images_that_the_disk_lost_are_not_in_the_journal(
    folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error of a delayed write is reported by one fsync; the next one succeeds."""
    errors = [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))]

    def fsync(_: int) -> None:
        if errors:
            raise errors.pop()

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(worker_processes, "_FEW", 0)
    monkeypatch.setattr(worker_processes, "_CHUNK", 1)
    monkeypatch.setattr(worker_processes, "_SECONDS_BETWEEN_WRITES", 0)
    with pytest.raises(UnwritableError, match="written: No space left on device; set XDG"):
        load(folder, workers=1)
    assert not list(cache.glob("images/*/journal.jsonl"))


def test_cache_that_cannot_be_written_is_named(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(UnwritableError, match=r"written: .*; make room, or set XDG_CACHE_HOME"):
        load(folder)


def test_stored_images_are_indexed_as_an_array(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 256, (5, 2, 3, 3), np.uint8)
    (tmp_path / "pixels").write_bytes(array.tobytes())
    rows = np.array([4, 0, 2, 1])
    stored = StoredImages(ImageFile(tmp_path / "pixels"), (2, 3, 3), rows)
    assert stored.shape == (4, 2, 3, 3)
    np.testing.assert_array_equal(stored[1:3], array[[0, 2]])
    np.testing.assert_array_equal(stored.take(np.array([3, 0]))[:], array[[1, 4]])
    np.testing.assert_array_equal(np.concatenate(list(in_batches(stored, 3))), array[rows])


def test_file_that_became_shorter_is_said(tmp_path: Path) -> None:
    (tmp_path / "pixels").write_bytes(bytes(30))
    stored = StoredImages(ImageFile(tmp_path / "pixels"), (2, 3, 3), np.arange(2))
    with pytest.raises(DataError, match="incomplete"):
        stored[:]
