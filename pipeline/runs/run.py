"""A finished run, with its network."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from models import ClassMapNetwork
from pipeline.runs.run_config import RunConfig, read_results
from pipeline.runs.run_data import RunData
from pipeline.runs.run_folder import CHECKPOINT
from pipeline.runs.tensor_files import read_tensors
from pipeline.training.callbacks import Epoch
from pipeline.training.trainer import Record
from pipeline.training.weights import load_network


@dataclass(frozen=True)
class Run:
    """A run that was read from its folder."""

    folder: Path
    config: RunConfig
    network: ClassMapNetwork
    best: Epoch
    known_data: RunData | None = None
    """The data, if the caller has read it already."""

    @cached_property
    def data(self) -> RunData:
        """The run's data set and its split, read at the first use.

        Raises:
            RunError: the data is not what the run was trained on.

        """
        return self.config.read_data() if self.known_data is None else self.known_data


def read_run(folder: Path, *, data: RunData | None = None) -> Run:
    """Read a run: its configuration, and the network of its best epoch.

    `data` is the run's data, if the caller has read it already.

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
    return Run(folder, config, network, Record(epochs=epochs).best, data)
