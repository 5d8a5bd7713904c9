"""The data of a run, read and split once, however many parts of a command need it."""

from dataclasses import dataclass
from weakref import WeakValueDictionary

from pipeline.data.registry import Dataset, Split, split_validation

ImageSize = int | tuple[int, int]


@dataclass(frozen=True, kw_only=True, slots=True, weakref_slot=True, eq=False)
class RunData:
    """Data set whose training images are split into images to fit and to validate on."""

    dataset: Dataset
    fit: Split
    validation: Split
    sha256: str
    """Digest of the data set, computed once."""


Key = tuple[str, ImageSize, str, tuple[str, ...], float, int]
"""Source, image size, SHA-256, classes, validation share and seed: they decide a `RunData`."""

# While a plan holds its data, whoever reads the run's folder back finds the data here.
_IN_USE: WeakValueDictionary[Key, RunData] = WeakValueDictionary()


def split_run_data(
    dataset: Dataset, source: str, image_size: ImageSize, *, validation: float, seed: int
) -> RunData:
    """Split `dataset`, which was loaded from `source` with `image_size`.

    Raises:
        DataError: a class has too few images to be split.

    """
    sha256, classes = dataset.sha256, dataset.classes
    key = source, image_size, sha256, classes, validation, seed
    if (held := _IN_USE.get(key)) is not None:
        return held
    fit, held_out = split_validation(dataset.train, validation, seed, classes)
    data = RunData(dataset=dataset, fit=fit, validation=held_out, sha256=sha256)
    _IN_USE[key] = data
    return data


def data_in_use(key: Key) -> RunData | None:
    """Return the data that some part of this process holds at present, if it has this key."""
    return _IN_USE.get(key)
