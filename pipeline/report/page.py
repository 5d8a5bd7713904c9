"""HTML page of a study: one file with style, figures and images inside."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from numpy.typing import NDArray

from models.ood_scores import SCORES
from pipeline.console import next_command
from pipeline.progress import Progress, silent
from pipeline.report import figures
from pipeline.report.history import LayerHistory, RunHistory
from pipeline.report.study import Study
from pipeline.templating import render_template

TEMPLATES = Path(__file__).parent / "templates"
# Each point of the curve is the mean over this share of an epoch's steps.
_SMOOTHED_OVER = 0.5


def render(study: Study, progress: Progress = silent) -> str:
    """Render the report as HTML; `progress` is told each figure."""
    config, recorded = study.run.config, study.history.layers
    progress("drawing the figures", 0, 0)
    drawn, layers = _figures(study), []
    for done, layer in enumerate(recorded):
        progress("drawing the figures", done, len(recorded))
        layers.append(Markup(figures.to_svg(draw_layer(layer))))  # noqa: S704
    return render_template(
        "report.html",
        TEMPLATES,
        study=study,
        config=config,
        classification=study.classification,
        figures=drawn,
        layers=layers,
        recipe=list(flattened(config.recipe.model_dump(mode="json"))),
        again=next_command("limelight", "report", study.run.folder),
        seconds=sum(epoch.seconds for epoch in study.history.epochs),
        ood_scores=SCORES,
    )


def _figures(study: Study) -> dict[str, Markup]:
    """Draw the figures, by name; those that an older run did not record are left out."""
    classification, history = study.classification, study.history
    validation = [epoch.validation_loss for epoch in history.epochs]
    drawn = {
        "losses": figures.losses(*_training_losses(history), validation),
        "accuracies": figures.accuracies(
            [epoch.validation_accuracy for epoch in history.epochs], study.run.best.epoch
        ),
        "confusion": figures.confusion_matrix(classification.confusion, study.run.config.classes),
        "reliability": figures.reliability_diagram(
            classification.calibrated.bin_confidence,
            classification.calibrated.bin_accuracy,
            classification.calibrated.bin_counts,
            uncalibrated=(
                classification.uncalibrated.bin_confidence,
                classification.uncalibrated.bin_accuracy,
            ),
        ),
    }
    if history.steps is not None:
        rates, momenta = history.steps.learning_rate, history.steps.momentum
        drawn["schedule"] = figures.schedule(_epochs_of_steps(history, len(rates)), rates, momenta)
    return {name: Markup(figures.to_svg(figure)) for name, figure in drawn.items()}  # noqa: S704


def _training_losses(history: RunHistory) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return times in epochs and training losses: smoothed per step, or one per epoch."""
    if history.steps is None:
        means = np.array([epoch.train_loss for epoch in history.epochs])
        return _epochs_of_steps(history, len(means)), means
    step_losses = history.steps.loss
    window = max(1, round(_SMOOTHED_OVER * len(step_losses) / len(history.epochs)))
    return _epochs_of_steps(history, len(step_losses)), figures.smoothed(step_losses, window)


def _epochs_of_steps(history: RunHistory, steps: int) -> NDArray[np.float64]:
    """Return the end of each step, in epochs: (S,)."""
    return np.arange(1, steps + 1, dtype=np.float64) * (len(history.epochs) / steps)


def draw_layer(layer: LayerHistory) -> Figure:
    """Draw the colorful dimension of a recorded layer."""
    return figures.colorful_dimension(
        layer.name,
        layer.steps,
        layer.histograms,
        layer.span,
        means=layer.means,
        deviations=layer.deviations,
        near_zero=layer.near_zero,
    )


def flattened(fields: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield dotted names of nested fields, and their values as readable text."""
    for name, value in fields.items():
        if isinstance(value, Mapping):
            yield from flattened(value, f"{prefix}{name}.")
        elif isinstance(value, (list, tuple)):
            yield f"{prefix}{name}", ", ".join(map(str, value)) or "default"
        elif isinstance(value, bool):
            yield f"{prefix}{name}", "yes" if value else "no"
        elif value is None:
            yield f"{prefix}{name}", "none"
        else:
            yield f"{prefix}{name}", str(value)
