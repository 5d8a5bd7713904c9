"""A finished run, with its network."""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from models import ClassMapNetwork
from pipeline.data.reading_options import Reading
from pipeline.runs.run_config import RunConfig, read_results
from pipeline.runs.run_data import RunData
from pipeline.runs.run_folder import CHECKPOINT
from pipeline.runs.tensor_files import read_tensors
from pipeline.training.record import Epoch, Record
from pipeline.training.weights import load_network


@dataclass(frozen=True)
class Run:
    """A run that was read from its folder."""

    folder: Path
    # A notebook shows what is short.
    config: RunConfig = field(repr=False)
    network: ClassMapNetwork = field(repr=False)
    best: Epoch
    known_data: RunData | None = field(default=None, repr=False)
    """The data, if the caller has read it already."""
    moved_to: Path | None = None
    """Where the user's own images are now, if they moved."""
    reading: Reading | None = field(default=None, repr=False)
    """How they are read."""

    @cached_property
    def data(self) -> RunData:
        """The run's data set and its split, read at the first use.

        Raises:
            RunError: the data is not what the run was trained on.

        """
        if self.known_data is not None:
            return self.known_data
        return self.config.read_data(moved_to=self.moved_to, reading=self.reading)


def read_run(
    folder: Path,
    *,
    data: RunData | None = None,
    moved_to: Path | None = None,
    reading: Reading | None = None,
) -> Run:
    """Read a run: its configuration, and the network of its best epoch.

    `data` is the run's data, if the caller has read it already. `moved_to` and `reading` are those
    of `RunConfig.read_data`.

    Raises:
        RunError: a file is missing or cannot be read, or the run was trained on other data.

    """
    config, epochs = read_results(folder)
    if data is not None:
        config.check(data)
    weights, _ = read_tensors(folder / CHECKPOINT)
    network = load_network(
        config.recipe.network,
        weights,
        name=str(folder),
        channels=len(config.normalisation.mean),
        classes=len(config.classes),
    )
    best = Record(epochs=epochs).best
    return Run(folder, config, network, best, data, moved_to, reading)
