"""One entry in the registry is all that a new data set needs."""

import json
from pathlib import Path

import numpy as np
import pytest

from pipeline.cli.commands.summary import data_shape
from pipeline.data.archive_formats import ARRAYS, Arrays
from pipeline.data.dataset_cache import array_sha256
from pipeline.data.download import fetch
from pipeline.data.entries import Bundled, Entry, Package, Published, Subset
from pipeline.data.image_rules import grey_photo_rule
from pipeline.data.registry import DATASETS, default_recipe, load_dataset, share_images
from pipeline.runs.run_config import read_config
from tests.pipeline.cli.running import limelight
from tests.pipeline.data.test_download import use_npm

CLASSES = ("horizontal", "vertical", "dark")


def stripes() -> Arrays:
    """Noisy 8x8 images of stripes in two directions, and dark ones: 240 and 60 of them."""
    rng = np.random.default_rng(0)
    rows = np.arange(8)[:, None] % 2 * np.full((8, 8), 200)
    patterns = np.stack([rows, rows.T, np.zeros((8, 8), int)])

    def draw(count: int) -> tuple[np.ndarray, np.ndarray]:
        labels = np.arange(count, dtype=np.uint8) % 3
        images = patterns[labels] + rng.integers(0, 50, (count, 8, 8))
        return images.astype(np.uint8)[..., None], labels

    return dict(zip(ARRAYS, (*draw(240), *draw(60)), strict=True))


def entry(origin: Published | Bundled | Subset, classes: tuple[str, ...] = CLASSES) -> Entry:
    return Entry(
        origin=origin,
        classes=classes,
        image=grey_photo_rule(8),
        licence="CC0",
        citation="Made for this test",
        recipe="digits8",
        export_name="directions",
        description="Directions of stripes",
    )


def test_bundled_dataset_is_loaded_listed_and_trained(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(DATASETS, "stripes", entry(Bundled(load=stripes)))
    dataset = load_dataset("stripes")
    assert (dataset.name, dataset.classes, dataset.licence) == ("stripes", CLASSES, "CC0")
    np.testing.assert_array_equal(dataset.train.images, stripes()["train_images"])
    np.testing.assert_array_equal(dataset.test.labels, stripes()["test_labels"])
    assert dataset.test.labels.dtype == np.int64
    assert default_recipe("stripes") == "digits8"
    assert data_shape("stripes") == (1, 8, 8, 3)

    listed = limelight("data", "list", cwd=tmp_path)
    row = next(line for line in listed.stdout.splitlines() if "stripes" in line)
    assert [cell.strip() for cell in row.strip("│").split("│")] == [
        "stripes", "3", "digits8", "installed with limelight", "CC0",
    ]  # fmt: skip
    unknown = limelight("train", "nothing", cwd=tmp_path)
    assert "stripes" in unknown.stderr

    trained = limelight(
        "train", "stripes", "--out", "run", "--epochs", "2", "--no-report", cwd=tmp_path
    )
    assert trained.returncode == 0, trained.stderr
    config = read_config(tmp_path / "run")
    assert (config.source, config.recipe_name) == ("stripes", "digits8")


def test_published_dataset_is_fetched_by_its_own_decoder_and_verified(
    cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    arrays = stripes()
    published = Published(
        npm=Package(
            name="stripes@1.0.0",
            decode=lambda files: {
                key: np.array(values, np.uint8)
                for key, values in json.loads(files["stripes.json"]).items()
            },
        ),
        sha256={key: array_sha256(array) for key, array in arrays.items()},
    )
    monkeypatch.setitem(DATASETS, "stripes", entry(published))
    content = json.dumps({key: array.tolist() for key, array in arrays.items()}).encode()
    use_npm(monkeypatch, tmp_path / "bin", {"stripes.json": content})
    assert "limelight data fetch stripes" in limelight("data", "list", cwd=tmp_path).stdout
    assert fetch("stripes") == cache / "stripes.npz"
    np.testing.assert_array_equal(load_dataset("stripes").train.images, arrays["train_images"])


def test_subset_takes_its_classes_from_the_new_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DATASETS, "stripes", entry(Bundled(load=stripes)))
    subset = entry(Subset(parent="stripes"), classes=("dark", "vertical"))
    monkeypatch.setitem(DATASETS, "two-stripes", subset)
    dataset = load_dataset("two-stripes")
    assert dataset.classes == ("dark", "vertical")
    assert len(dataset.train) == 160
    assert dataset.train.images[dataset.train.labels == 0].max() < 50
    assert share_images("stripes", "two-stripes")
    assert not share_images("two-stripes", "mnist37")
