"""Backends of `--track`: TensorBoard and MLflow."""

import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from pipeline.errors import PipelineError

logger = logging.getLogger(__name__)

EXPERIMENT, FOLDER_TAG = "limelight", "limelight.folder"
# MLflow accepts 1,000 points at a time.
_POINTS_AT_ONCE = 500

Field = bool | int | float | str


class TrackingBackend(Protocol):
    """Receives scalars and hyperparameters."""

    def begin(self, fields: Mapping[str, Field], *, resumed: bool) -> None:
        """Open the board, and write the hyperparameters."""

    def scalar(self, name: str, value: float, step: int) -> None:
        """Add a point to the curve `name`."""

    def flush(self) -> None:
        """Make all points visible to readers."""

    def end(self) -> None:
        """Close the board, which is open."""


class TensorBoard:
    """Event files in RUN/tensorboard, for `tensorboard --logdir runs`.

    Raises:
        ImportError: tensorboard is not installed.

    """

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._folder = folder / "tensorboard"
        self._make_writer = SummaryWriter
        self._writer: SummaryWriter

    def begin(self, fields: Mapping[str, Field], *, resumed: bool) -> None:
        """Open another file of events."""
        from torch.utils.tensorboard.summary import hparams

        self._writer = self._make_writer(str(self._folder))
        # The writer's own `add_hparams` would create a second run beside the one with the curves.
        experiment, session, _ = hparams(dict(fields), {"accuracy/validation": 0.0})  # type: ignore[no-untyped-call]
        for summary in (experiment, session):
            self._writer.file_writer.add_summary(summary)  # type: ignore[attr-defined]

    def scalar(self, name: str, value: float, step: int) -> None:
        """Add a point to the curve `name`."""
        self._writer.add_scalar(name, value, step)

    def flush(self) -> None:
        """Write what is buffered."""
        self._writer.flush()

    def end(self) -> None:
        """Close the file."""
        self._writer.close()


class MLflow:
    """A run of the experiment `limelight`, with the name of the run folder.

    It is written to MLFLOW_TRACKING_URI, or by default to `mlruns` in the current folder, which
    `mlflow ui` shows with MLFLOW_ALLOW_FILE_STORE=true. A resumed run continues in the same MLflow
    run.

    Raises:
        ImportError: mlflow is not installed.
        PipelineError: it cannot be written to.

    """

    def __init__(self, folder: Path) -> None:
        for name in ("MLFLOW_DISABLE_TELEMETRY", "DO_NOT_TRACK", "MLFLOW_ALLOW_FILE_STORE"):
            os.environ.setdefault(name, "true")
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient

        uri = os.environ.get("MLFLOW_TRACKING_URI") or (Path.cwd() / "mlruns").as_uri()
        self._folder = folder.resolve()
        self._failures = (MlflowException, OSError)
        self._points: list[tuple[str, float, int, int]] = []
        self._run: str
        try:
            self._client = MlflowClient(uri)
            experiment = self._client.get_experiment_by_name(EXPERIMENT)
            self._experiment: str = (
                experiment.experiment_id
                if experiment
                else self._client.create_experiment(EXPERIMENT)
            )
        except self._failures as error:
            raise PipelineError(
                f"MLflow at {uri} cannot be written to ({error}): set MLFLOW_TRACKING_URI to a "
                "server or a file:///FOLDER, or train without --track mlflow"
            ) from error

    def begin(self, fields: Mapping[str, Field], *, resumed: bool) -> None:
        """Start a run, or continue an interrupted one."""
        earlier = self._client.search_runs([self._experiment]) if resumed else []
        for run in earlier:
            if run.data.tags.get(FOLDER_TAG) == str(self._folder):
                self._run = run.info.run_id
                self._client.update_run(self._run, status="RUNNING")
                return
        tags = {FOLDER_TAG: str(self._folder)}
        run = self._client.create_run(self._experiment, tags=tags, run_name=self._folder.name)
        self._run = run.info.run_id
        for name, value in fields.items():
            self._client.log_param(self._run, name, value)

    def scalar(self, name: str, value: float, step: int) -> None:
        """Add a point to the curve `name`."""
        self._points.append((name, value, int(time.time() * 1000), step))
        if len(self._points) % _POINTS_AT_ONCE == 0:
            self.flush()

    def flush(self) -> None:
        """Send what is buffered; if the server is not available, the next flush sends it."""
        from mlflow.entities import Metric

        try:
            while self._points:
                some = [Metric(*point) for point in self._points[:_POINTS_AT_ONCE]]
                self._client.log_batch(self._run, some)
                del self._points[:_POINTS_AT_ONCE]
        except self._failures as error:
            logger.warning("MLflow does not accept scalars at the moment: %s", error)

    def end(self) -> None:
        """Send the rest, and mark the run as finished."""
        self.flush()
        try:
            self._client.set_terminated(self._run)
        except self._failures as error:
            logger.warning("MLflow could not mark the run as finished: %s", error)
