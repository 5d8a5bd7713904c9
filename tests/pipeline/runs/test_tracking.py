"""TensorBoard and MLflow files, read with their own readers."""

import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from mlflow.entities import Run
from mlflow.tracking import MlflowClient
from pydantic import JsonValue
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2

from pipeline.errors import PipelineError
from pipeline.runs.tracking import flattened, tracker
from pipeline.runs.tracking_backends import MLflow
from pipeline.training.activation_stats import ActivationStatistics
from pipeline.training.callbacks import Callback
from pipeline.training.loop import train
from pipeline.training.recipe import Recipe
from pipeline.training.record import Batch, Record
from pipeline.training.trainer import Trainer
from tests.pipeline.training.small_trainings import small_trainer, splits

_, VALIDATION = splits()
RECIPE = Recipe.load("digits8", epochs=2)
FIELDS: dict[str, JsonValue] = {
    "seed": 0,
    "recipe": RECIPE.model_dump(mode="json"),
    "pretrained": None,
}
TENTHS = [10, 20, 30]  # of 2 epochs of 19 steps


class Steps(Callback):
    """Every batch, to compare with."""

    def __init__(self) -> None:
        self.batches: list[Batch] = []

    def end_batch(self, trainer: Trainer, batch: Batch) -> None:
        self.batches.append(batch)


def make_trainer() -> Trainer:
    return small_trainer(RECIPE)


def tracked(name: str, folder: Path) -> tuple[Record, Steps, ActivationStatistics]:
    steps, activations = Steps(), ActivationStatistics(every=10)
    board = tracker(name, folder, FIELDS, activations)
    assert not folder.exists()
    return train(make_trainer(), VALIDATION, [activations, steps, board]), steps, activations


def compare(
    curve: dict[str, dict[int, float]],
    record: Record,
    steps: Steps,
    activations: ActivationStatistics,
) -> None:
    batches = {batch.step: batch for batch in steps.batches if batch.step in TENTHS}
    for name, expected in {
        "loss/batch": {step: float(batch.loss) for step, batch in batches.items()},
        "rate": {step: batch.learning_rate for step, batch in batches.items()},
        "momentum": {step: batch.momentum for step, batch in batches.items()},
        "loss/train": {19 * epoch.epoch: epoch.train_loss for epoch in record.epochs},
        "loss/validation": {19 * e.epoch: e.validation_loss for e in record.epochs},
        "accuracy/validation": {19 * e.epoch: e.validation_accuracy for e in record.epochs},
    }.items():
        assert curve[name] == pytest.approx(expected), name
    state = activations.state()
    for row, layer in enumerate(activations.layers):
        for name, kind in (("mean", "means"), ("deviation", "deviations")):
            expected = dict(zip([1, 11, 21, 31], state[kind][row].tolist(), strict=True))
            assert curve[f"activations/{name}/{layer}"] == pytest.approx(expected)
    assert len(curve) == 6 + 2 * len(activations.layers)


def test_tensorboard_shows_every_curve(tmp_path: Path) -> None:
    results = tracked("tensorboard", tmp_path / "run")
    events = read_events(tmp_path / "run")
    curves = {
        name: {point.step: point.value for point in events.Scalars(name)}
        for name in events.Tags()["scalars"]
    }
    compare(curves, *results)


def test_tensorboard_shows_the_hyperparameters(tmp_path: Path) -> None:
    tracked("tensorboard", tmp_path / "run")
    content = read_events(tmp_path / "run").summary_metadata["_hparams_/session_start_info"]
    session = plugin_data_pb2.HParamsPluginData.FromString(content.plugin_data.content)
    values = session.session_start_info.hparams
    assert values["recipe.batch_size"].number_value == 64
    assert values["recipe.network.architecture"].string_value == "resnet"
    assert values["recipe.class_weights"].bool_value is False


def test_mlflow_shows_every_curve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    results = tracked("mlflow", tmp_path / "run")
    client, (run,) = read_runs(tmp_path)
    curves = {
        name: {
            point.step: point.value for point in client.get_metric_history(run.info.run_id, name)
        }
        for name in run.data.metrics
    }
    compare(curves, *results)
    assert run.info.run_name == "run"
    assert run.info.status == "FINISHED"


def test_mlflow_shows_the_hyperparameters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tracked("mlflow", tmp_path / "run")
    _, (run,) = read_runs(tmp_path)
    assert run.data.params == {name: str(value) for name, value in flattened(FIELDS).items()}
    assert run.data.params["recipe.schedule.peak"] == "0.1"


def test_mlflow_writes_to_its_tracking_uri(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "elsewhere").as_uri())
    tracked("mlflow", tmp_path / "run")
    assert not (tmp_path / "mlruns").exists()
    assert len(list((tmp_path / "elsewhere").glob("*/*/params"))) == 1


def break_off(name: str, folder: Path) -> Trainer:
    """A trainer that is to take over after one epoch of two."""
    first, second = make_trainer(), make_trainer()
    board = tracker(name, folder, FIELDS)
    board.begin_training(first)
    for _ in first.run_epoch([board]):
        pass
    board.end_training(first)
    second.restore(first.state())
    return second


def test_resumed_run_continues_its_mlflow_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folders = [tmp_path / "one", tmp_path / "other"]
    for folder, trainer in [(folder, break_off("mlflow", folder)) for folder in folders]:
        train(trainer, VALIDATION, [tracker("mlflow", folder, FIELDS)])
    client, runs = read_runs(tmp_path)
    assert sorted(str(run.info.run_name) for run in runs) == ["one", "other"]
    for run in runs:
        history = client.get_metric_history(run.info.run_id, "loss/batch")
        assert sorted(point.step for point in history) == TENTHS


def test_resumed_run_continues_its_curves_in_tensorboard(tmp_path: Path) -> None:
    trainer = break_off("tensorboard", tmp_path / "run")
    train(trainer, VALIDATION, [tracker("tensorboard", tmp_path / "run", FIELDS)])
    steps = [point.step for point in read_events(tmp_path / "run").Scalars("loss/batch")]
    assert sorted(steps) == TENTHS


def test_activations_from_before_a_resume_are_not_written_again(tmp_path: Path) -> None:
    activations = ActivationStatistics(every=10)
    trainer = make_trainer()
    activations.begin_training(trainer)
    for _ in trainer.run_epoch([activations]):
        pass
    train(trainer, VALIDATION, [activations, tracker("tensorboard", tmp_path, FIELDS, activations)])
    points = read_events(tmp_path).Scalars("activations/mean/head")
    assert [point.step for point in points] == [21, 31]


def test_mlflow_server_gets_every_point_after_an_outage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    original = MlflowClient.log_batch

    def fail(self: MlflowClient, run_id: str, metrics: Sequence[object]) -> None:
        raise OSError("no route")

    board = MLflow(tmp_path / "run")
    board.begin({}, resumed=False)
    monkeypatch.setattr(MlflowClient, "log_batch", fail)
    for step in range(1200):
        board.scalar("loss", step / 2, step)
    board.flush()
    assert caplog.text.count("does not accept scalars at the moment: no route") == 3
    monkeypatch.setattr(MlflowClient, "log_batch", original)
    board.end()
    client, (run,) = read_runs(tmp_path)
    points = client.get_metric_history(run.info.run_id, "loss")
    assert [(point.step, point.value) for point in points] == [(n, n / 2) for n in range(1200)]


def test_mlflow_that_is_not_writable_is_rejected_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "file" / "mlruns").as_uri())
    with pytest.raises(PipelineError, match=r"cannot be written to .* MLFLOW_TRACKING_URI"):
        tracker("mlflow", tmp_path / "run", FIELDS)


def test_unknown_board_is_rejected() -> None:
    with pytest.raises(PipelineError, match="'wandb': there are tensorboard and mlflow"):
        tracker("wandb", Path("run"), FIELDS)


@pytest.mark.parametrize(
    ("name", "module"), [("tensorboard", "torch.utils.tensorboard"), ("mlflow", "mlflow.tracking")]
)
def test_missing_library_is_named_with_its_extra(
    name: str, module: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(PipelineError, match=rf"{name} .*pip install 'limelight\[track\]'"):
        tracker(name, tmp_path, FIELDS)


def test_fields_are_flattened_to_dotted_names() -> None:
    fields: dict[str, JsonValue] = {
        "a": 1,
        "b": {"c": [1, "x"], "d": {"e": True}},
        "none": None,
        "long": "y" * 1000,
    }
    assert flattened(fields) == {
        "a": 1,
        "b.c": '[1, "x"]',
        "b.d.e": True,
        "long": "y" * 499 + "…",
    }


@pytest.fixture(autouse=True)
def _no_tracking_uri(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def read_events(folder: Path) -> EventAccumulator:
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return events


def read_runs(folder: Path) -> tuple[MlflowClient, list[Run]]:
    client = MlflowClient((folder / "mlruns").as_uri())
    experiment = client.get_experiment_by_name("limelight")
    assert experiment is not None
    return client, list(client.search_runs([experiment.experiment_id]))
