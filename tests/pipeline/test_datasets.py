"""Data sets, the validation split, and a user's own folder of images."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from pipeline.datasets import load_dataset, split_validation
from pipeline.errors import DataError

COLOURS = {"blue": (20, 30, 200), "red": (200, 30, 20)}


def make_folder(folder: Path, images: int = 10, size: tuple[int, int] = (48, 40)) -> Path:
    """A sub-folder a colour, of noisy images of that colour."""
    rng = np.random.default_rng(0)
    for name, colour in COLOURS.items():
        (folder / name).mkdir(parents=True)
        for number in range(images):
            noise = rng.integers(-20, 20, (size[1], size[0], 3))
            pixels = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder


def test_digits8_is_scikit_learns_data_scaled_to_bytes() -> None:
    dataset, source = load_dataset("digits8"), load_digits()
    images = np.concatenate([dataset.train.images, dataset.test.images])[..., 0]
    np.testing.assert_allclose(images * (16 / 255), source.images, atol=0.04)
    labels = np.concatenate([dataset.train.labels, dataset.test.labels])
    np.testing.assert_array_equal(labels, source.target)


def test_the_validation_split_is_stratified_seeded_and_apart_from_the_rest() -> None:
    train = load_dataset("digits8").train
    fit, validation = split_validation(train, 0.15, seed=3)
    assert len(fit) + len(validation) == len(train)
    shares = np.bincount(validation.labels) / np.bincount(train.labels)
    np.testing.assert_allclose(shares, 0.15, atol=0.01)
    both = np.concatenate([fit.images, validation.images]).reshape(len(train), -1)
    everything = train.images.reshape(len(train), -1)
    assert sorted(map(bytes, both)) == sorted(map(bytes, everything))
    again = split_validation(train, 0.15, seed=3)[1]
    np.testing.assert_array_equal(again.images, validation.images)
    other = split_validation(train, 0.15, seed=4)[1]
    assert not np.array_equal(other.images, validation.images)


def test_the_digest_changes_with_a_single_label() -> None:
    dataset = load_dataset("digits8")
    before = dataset.sha256
    dataset.test.labels[0] += 1
    assert dataset.sha256 != before


def test_a_folder_has_a_class_a_sub_folder_and_a_fifth_of_it_for_the_test(tmp_path: Path) -> None:
    dataset = load_dataset(str(make_folder(tmp_path / "colours")), image_size=16)
    assert dataset.classes == ("blue", "red")
    assert dataset.train.images.shape == (16, 16, 16, 3)
    assert sorted(dataset.test.labels.tolist()) == [0, 0, 1, 1]
    for name, label in (("blue", 0), ("red", 1)):
        mean = dataset.train.images[dataset.train.labels == label].mean((0, 1, 2))
        np.testing.assert_allclose(mean, COLOURS[name], atol=4)


def test_a_folder_with_train_and_test_is_taken_as_it_is_split(tmp_path: Path) -> None:
    make_folder(tmp_path / "train", images=4)
    make_folder(tmp_path / "test", images=3)
    dataset = load_dataset(str(tmp_path))
    assert (len(dataset.train), len(dataset.test)) == (8, 6)


def test_different_classes_for_training_and_test_are_refused(tmp_path: Path) -> None:
    make_folder(tmp_path / "train", images=2)
    make_folder(tmp_path / "test", images=2)
    (tmp_path / "test" / "red").rename(tmp_path / "test" / "green")
    with pytest.raises(DataError, match="train has the classes"):
        load_dataset(str(tmp_path))


def test_unreadable_files_are_named_and_skipped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = make_folder(tmp_path)
    (folder / "red" / "broken.jpg").write_bytes(b"no image")
    (folder / "red" / "notes.txt").write_text("not an image, and not meant to be")
    dataset = load_dataset(str(folder))
    assert len(dataset.train) + len(dataset.test) == 20
    assert [record.message.split(":")[0] for record in caplog.records] == [
        f"skipped {folder / 'red' / 'broken.jpg'}"
    ]


def test_a_class_without_a_readable_image_is_an_error(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    (folder / "empty").mkdir()
    with pytest.raises(DataError, match="empty: no readable image"):
        load_dataset(str(folder))


def test_a_folder_without_classes_says_what_it_needs(tmp_path: Path) -> None:
    (tmp_path / "only").mkdir()
    with pytest.raises(DataError, match="at least two classes, found 1"):
        load_dataset(str(tmp_path))


def test_a_class_with_one_image_cannot_be_split(tmp_path: Path) -> None:
    folder = make_folder(tmp_path, images=1)
    with pytest.raises(DataError, match="cannot set test images aside"):
        load_dataset(str(folder))


def test_an_unknown_source_lists_the_known_ones() -> None:
    with pytest.raises(DataError, match=r"neither a data set .*mnist, cifar10, digits8.* nor a"):
        load_dataset("imagenet")
