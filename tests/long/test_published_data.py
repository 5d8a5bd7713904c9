"""`make test-data`: download the npm packages again and compare them with the published data.

MNIST is compared with the git object names of the four original files. The decoded arrays of
CIFAR-10 are compared with published figures: the first test labels, the class counts, and the
channels' means and standard deviations.
"""

import hashlib
from pathlib import Path

import numpy as np
import pytest

from pipeline.data.archive_formats import ARRAYS, mnist_arrays
from pipeline.data.dataset_cache import array_sha256, verify
from pipeline.data.download import fetch, npm_members
from pipeline.data.registry import find_published, load_cached, published_names

pytestmark = pytest.mark.timeout(900)

# `git hash-object` of the files that mirrors have served since 1998.
ORIGINALS = {
    "train-images-idx3-ubyte": "bbce27659e0fc2b7ed2a64c127849380a477099b",
    "train-labels-idx1-ubyte": "d6b4c5db3b52063d543fb397aede09aba0dc5234",
    "t10k-images-idx3-ubyte": "1170b2cae98de7a524b163fcc379ac8f00925b12",
    "t10k-labels-idx1-ubyte": "d1c3a970612bbd2df47a3c0697f82bd394abc450",
}


def git_object_name(content: bytes) -> str:
    header = f"blob {len(content)}\0".encode()
    return hashlib.sha1(header + content, usedforsecurity=False).hexdigest()


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def test_mnist_equals_the_four_original_files() -> None:
    mnist = find_published("mnist")
    members = npm_members(mnist.npm.name)
    assert {name: git_object_name(members[name]) for name in ORIGINALS} == ORIGINALS
    verify("mnist", mnist_arrays(members), mnist.sha256)


@pytest.mark.parametrize("name", published_names())
def test_cached_data_has_the_published_digests(name: str) -> None:
    fetch(name, "npm")
    arrays = load_cached(name)
    counts = {"mnist": (60_000, 10_000), "cifar10": (50_000, 10_000), "fashion": (5000, 2000)}[name]
    assert (len(arrays["train_labels"]), len(arrays["test_labels"])) == counts
    assert all(array_sha256(arrays[key]) == find_published(name).sha256[key] for key in ARRAYS)


def test_cifar10_has_the_published_statistics() -> None:
    fetch("cifar10", "npm")
    arrays = load_cached("cifar10")
    assert arrays["test_labels"][:10].tolist() == [3, 8, 8, 0, 6, 6, 1, 6, 3, 1]
    assert np.bincount(arrays["train_labels"]).tolist() == [5000] * 10
    assert np.bincount(arrays["test_labels"]).tolist() == [1000] * 10
    train = arrays["train_images"].reshape(-1, 3) / 255
    np.testing.assert_allclose(train.mean(0), [0.4914, 0.48216, 0.44653], atol=1e-4)
    np.testing.assert_allclose(train.std(0), [0.24703, 0.24349, 0.26159], atol=1e-4)
    test = arrays["test_images"].reshape(-1, 3) / 255
    np.testing.assert_allclose(test.mean(0), [0.49421, 0.48513, 0.45041], atol=1e-5)


def test_fashion_mnist_has_the_published_statistics() -> None:
    # Mean and standard deviation of the training images, as commonly used for normalisation.
    fetch("fashion")
    arrays = load_cached("fashion")
    levels = np.concatenate([arrays["train_images"], arrays["test_images"]]) / 255
    assert levels.mean() == pytest.approx(0.2860, abs=0.005)
    assert levels.std() == pytest.approx(0.3530, abs=0.005)
