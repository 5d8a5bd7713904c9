"""Named data sets, subsets, the validation split, class weights, and folders of images."""

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.utils.class_weight import compute_class_weight

from limelight.imaging.preprocessing import read_upload
from pipeline.data import registry as datasets
from pipeline.data.decoding import image_reader
from pipeline.data.registry import (
    DATASETS,
    Split,
    class_counts,
    class_weights,
    imbalance_report,
    load_dataset,
    split_validation,
)
from pipeline.errors import DataError, PipelineError
from pipeline.runs.choices import Choices, check_choices

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


def test_digits8_is_the_data_of_scikit_learn_scaled_to_bytes() -> None:
    dataset, source = load_dataset("digits8"), load_digits()
    images = np.concatenate([dataset.train.images, dataset.test.images])[..., 0]
    np.testing.assert_allclose(images * (16 / 255), source.images, atol=0.04)
    labels = np.concatenate([dataset.train.labels, dataset.test.labels])
    np.testing.assert_array_equal(labels, source.target)


def test_validation_split_is_stratified_seeded_and_disjoint() -> None:
    train = load_dataset("digits8").train
    fit, validation = split_validation(train, 0.15, seed=3)
    assert len(fit) + len(validation) == len(train)
    shares = np.bincount(validation.labels) / np.bincount(train.labels)
    np.testing.assert_allclose(shares, 0.15, atol=0.01)
    both = np.concatenate([fit.images, validation.images]).reshape(len(train), -1)
    everything = train.images[:].reshape(len(train), -1)
    assert sorted(map(bytes, both)) == sorted(map(bytes, everything))
    again = split_validation(train, 0.15, seed=3)[1]
    np.testing.assert_array_equal(again.images, validation.images)
    other = split_validation(train, 0.15, seed=4)[1]
    assert not np.array_equal(other.images[:], validation.images[:])


def test_digest_changes_with_a_single_label() -> None:
    dataset = load_dataset("digits8")
    before = dataset.sha256
    dataset.test.labels[0] += 1
    assert dataset.sha256 != before


def test_folder_has_a_class_for_each_sub_folder_and_a_fifth_is_held_out(tmp_path: Path) -> None:
    dataset = load_dataset(str(make_folder(tmp_path / "colours")), image_size=16)
    assert dataset.classes == ("blue", "red")
    assert dataset.train.images.shape == (16, 16, 16, 3)
    assert sorted(dataset.test.labels.tolist()) == [0, 0, 1, 1]
    for name, label in (("blue", 0), ("red", 1)):
        mean = dataset.train.images[dataset.train.labels == label].mean((0, 1, 2))
        np.testing.assert_allclose(mean, COLOURS[name], atol=4)


def test_folder_with_train_and_test_keeps_its_split(tmp_path: Path) -> None:
    make_folder(tmp_path / "train", images=4)
    make_folder(tmp_path / "test", images=3)
    dataset = load_dataset(str(tmp_path))
    assert (len(dataset.train), len(dataset.test)) == (8, 6)


def test_different_classes_for_training_and_test_are_rejected(tmp_path: Path) -> None:
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


def test_class_without_a_readable_image_is_rejected(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    (folder / "broken").mkdir()
    (folder / "broken" / "1.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"'broken': no readable image \(first .*1.png: the file"):
        load_dataset(str(folder))


def test_class_without_an_image_is_rejected_before_images_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_reader, "decode_missing", None)
    folder = make_folder(tmp_path)
    (folder / "empty").mkdir()
    (folder / "empty" / "notes.txt").touch()
    with pytest.raises(DataError, match="no image of 'empty' to train on: add some, or"):
        load_dataset(str(folder))


def test_folder_with_one_class_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "only").mkdir()
    with pytest.raises(DataError, match="at least two classes, found 1"):
        load_dataset(str(tmp_path))


def test_class_with_one_image_cannot_be_split(tmp_path: Path) -> None:
    folder = make_folder(tmp_path, images=1)
    with pytest.raises(DataError, match="cannot hold out test images: the classes 'blue', 'red'"):
        load_dataset(str(folder))


def test_unknown_source_is_rejected_with_the_known_names() -> None:
    with pytest.raises(
        DataError, match=r"neither a data set .*mnist, cifar10, fashion, digits8.* nor a"
    ):
        load_dataset("imagenet")


def test_registry_lists_all_data_sets() -> None:
    assert tuple(DATASETS) == (
        "mnist",
        "cifar10",
        "fashion",
        "digits8",
        "mnist37",
        "cifar8",
        "cats-and-dogs",
    )


@pytest.fixture
def small_parents(monkeypatch: pytest.MonkeyPatch) -> dict[str, np.ndarray]:
    """Noise in the form of MNIST and of CIFAR-10: 40 training and 20 test images each."""
    rng = np.random.default_rng(0)
    arrays = {}
    for name, shape in (("mnist", (28, 28, 1)), ("cifar10", (32, 32, 3))):
        for part, images in (("train", 40), ("test", 20)):
            arrays[f"{name}_{part}_images"] = rng.integers(0, 256, (images, *shape), np.uint8)
            arrays[f"{name}_{part}_labels"] = rng.permutation(
                np.arange(images, dtype=np.uint8) % 10
            )

    def load_cached(name: str) -> dict[str, np.ndarray]:
        return {
            f"{part}_{what}": arrays[f"{name}_{part}_{what}"]
            for part in ("train", "test")
            for what in ("images", "labels")
        }

    monkeypatch.setattr(datasets, "load_cached", load_cached)
    return arrays


@pytest.mark.parametrize(
    ("name", "parent", "kept"),
    [
        ("mnist37", "mnist", (3, 7)),
        ("cifar8", "cifar10", (0, 1, 2, 4, 6, 7, 8, 9)),
        ("cats-and-dogs", "cifar10", (3, 5)),
    ],
)
def test_subset_has_some_classes_of_its_parent_in_order(
    name: str, parent: str, kept: tuple[int, ...], small_parents: dict[str, np.ndarray]
) -> None:
    derived, whole = load_dataset(name, image_size=32), load_dataset(parent)
    assert derived.name == name
    assert derived.classes == tuple(whole.classes[label] for label in kept)
    assert (derived.licence, derived.source) == (whole.licence, whole.source)
    assert derived.image == whole.image
    for part in ("train", "test"):
        split: Split = getattr(derived, part)
        labels = small_parents[f"{parent}_{part}_labels"]
        chosen = np.isin(labels, kept)
        np.testing.assert_array_equal(
            split.images, small_parents[f"{parent}_{part}_images"][chosen]
        )
        np.testing.assert_array_equal(np.array(kept)[split.labels], labels[chosen])


@pytest.mark.parametrize("image_size", [64, (48, 72)])
def test_cats_and_dogs_are_resized_like_uploads(
    image_size: int | tuple[int, int], small_parents: dict[str, np.ndarray]
) -> None:
    dataset = load_dataset("cats-and-dogs", image_size=image_size)
    first = np.flatnonzero(np.isin(small_parents["cifar10_test_labels"], (3, 5)))[0]
    stream = BytesIO()
    Image.fromarray(small_parents["cifar10_test_images"][first]).save(stream, "PNG")
    upload = read_upload(stream.getvalue(), dataset.image, max_pixels=10_000)
    np.testing.assert_array_equal(dataset.test.images[:][0], upload.pixels_hwc)
    assert upload.pixels_hwc.shape[:2] == ((64, 64) if image_size == 64 else image_size)


def test_subset_of_digits_is_not_resized(small_parents: dict[str, np.ndarray]) -> None:
    assert load_dataset("mnist37", image_size=64).train.images.shape[1:] == (28, 28, 1)


@pytest.mark.parametrize("source", ["mnist", "mnist37", "digits8"])
def test_image_size_of_a_data_set_that_keeps_its_own_is_rejected(source: str) -> None:
    with pytest.raises(PipelineError, match=f"{source} keeps its .* leave out the image size"):
        check_choices(source, Choices(image_size=64))


def test_class_weights_equal_scikit_learn_and_have_mean_1() -> None:
    labels = np.repeat([0, 1, 2], [100, 20, 3])
    weights = class_weights(labels, ("a", "b", "c"))
    expected = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    np.testing.assert_allclose(weights, expected, rtol=1e-6)
    assert weights.dtype == np.float32
    assert weights[labels].mean() == pytest.approx(1)


def test_class_without_images_has_no_weight() -> None:
    with pytest.raises(DataError, match="no image of 'b', so it has no weight"):
        class_weights(np.array([0, 2]), ("a", "b", "c"))


def test_uneven_classes_are_reported_with_their_counts() -> None:
    labels = np.repeat([0, 1, 2], [1500, 900, 1000])
    assert class_counts(labels, ("a", "b", "c")) == {"a": 1500, "b": 900, "c": 1000}
    report = imbalance_report(labels, ("a", "b", "c"))
    assert report is not None
    assert "'a' has 1,500 images and 'b' 900 (1.7x)" in report
    assert "--class-weights" in report
    assert imbalance_report(labels[1:1501], ("a", "b", "c")) is not None  # 'c' has none
    assert imbalance_report(np.repeat([0, 1], [149, 100]), ("a", "b")) is None
    assert imbalance_report(np.repeat([0, 1], [150, 100]), ("a", "b")) is not None


def test_class_that_cannot_be_split_is_named() -> None:
    train = Split(np.zeros((5, 2, 2, 1), np.uint8), np.array([0, 0, 0, 0, 1]))
    with pytest.raises(DataError, match="hold out validation images: the class 'dog' has only one"):
        split_validation(train, 0.4, 0, ("cat", "dog"))
    with pytest.raises(DataError, match="the class number 1 has only one image"):
        split_validation(train, 0.4, 0)
