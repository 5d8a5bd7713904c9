"""Training on images that stay in a file, compared with the same images in memory."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from pipeline.data.registry import Split
from pipeline.data.stored_images import ImageFile, StoredImages
from pipeline.training import resident_images
from pipeline.training.loop import train
from pipeline.training.recipe import Recipe
from tests.pipeline.training.small_trainings import small_trainer, splits

CHANGES = {
    "epochs": 2,
    "augmentation__flip": "random",
    "augmentation__pad": 2,
    "augmentation__cutout": 3,
    "augmentation__cutmix": 0.3,
}


def stored(split: Split, file: Path) -> Split:
    """Write a split's images to a file, in the opposite order."""
    images, last = split.images[:], len(split) - 1
    file.write_bytes(images[::-1].tobytes())
    rows = last - np.arange(len(split))
    height, width, channels = images.shape[1:]
    return Split(StoredImages(ImageFile(file), (height, width, channels), rows), split.labels)


@pytest.mark.parametrize("room", [0, 1 << 30])
def test_images_in_a_file_train_the_same_weights_and_are_read_by_the_batch(
    room: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = Recipe.load("digits8", **CHANGES)
    fit, validation = splits()
    expected = train(small_trainer(recipe), validation)
    read: list[int] = []
    index = StoredImages.__getitem__

    def counted(self: StoredImages, key: slice | NDArray[np.int64]) -> NDArray[np.uint8]:
        images = index(self, key)
        read.append(len(images))
        return images

    monkeypatch.setattr(resident_images, "_MOST_BYTES_ON_CPU", room)
    in_file = stored(fit, tmp_path / "fit")
    trainer = small_trainer(recipe, fit=in_file)
    monkeypatch.setattr(StoredImages, "__getitem__", counted)
    record = train(trainer, stored(validation, tmp_path / "validation"))
    assert all(
        torch.equal(record.weights[name], expected.weights[name]) for name in expected.weights
    )
    assert record.best.validation_loss == expected.best.validation_loss
    if room == 0:
        assert read.count(recipe.batch_size) >= trainer.steps
    assert max(read) <= max(recipe.batch_size, len(validation))
