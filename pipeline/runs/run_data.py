"""The data of a run: a data set, and the split of its training images."""

from dataclasses import dataclass

from pipeline.data.registry import Dataset, Split, split_validation


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class RunData:
    """Data set whose training images are split into images to fit and to validate on.

    A command reads and splits its data once, and passes this on.
    """

    dataset: Dataset
    fit: Split
    validation: Split
    sha256: str
    """Digest of the data set, computed once."""


def split_run_data(dataset: Dataset, *, validation: float, seed: int) -> RunData:
    """Split the training images of `dataset`; `validation` is the share to validate on.

    Validation images of the data set's own are taken instead.

    Raises:
        DataError: a class has too few images to be split.

    """
    if dataset.validation is not None:
        fit, held_out = dataset.train, dataset.validation
    else:
        fit, held_out = split_validation(dataset.train, validation, seed, dataset.classes)
    return RunData(dataset=dataset, fit=fit, validation=held_out, sha256=dataset.sha256)
