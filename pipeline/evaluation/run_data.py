"""Data of a run, read once and split once."""

from dataclasses import dataclass

from pipeline.data.registry import Dataset, Split
from pipeline.runs.run import Run


@dataclass(frozen=True, slots=True)
class RunData:
    """Data set of a run, and its training images, split as they were in the run."""

    dataset: Dataset
    fit: Split
    """Images that the weights were fitted to."""
    validation: Split


def read_run_data(run: Run) -> RunData:
    """Read a run's data set and split its training images.

    Raises:
        RunError: the data is not what the run was trained on.

    """
    dataset = run.config.load_data()
    fit, validation = run.config.split(dataset)
    return RunData(dataset, fit, validation)
