"""From a study to a page that needs nothing else."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from numpy.typing import NDArray

from pipeline.report import figures
from pipeline.report.history import LayerHistory, RunHistory
from pipeline.report.study import Study

TEMPLATES = Path(__file__).parent / "templates"
# Of an epoch's steps, the share that a point of the curve is the mean of.
_SMOOTHED_OVER = 0.5


def render(study: Study) -> str:
    """The report as HTML, with style, figures and images inside."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"amount": amount, "duration": duration, "percent": percent}
    config = study.run.config
    return environment.get_template("report.html").render(
        study=study,
        config=config,
        assessment=study.assessment,
        figures=_figures(study),
        layers=[Markup(figures.to_svg(draw_layer(layer))) for layer in study.history.layers],  # noqa: S704
        recipe=list(flattened(config.recipe.model_dump(mode="json"))),
        seconds=sum(epoch.seconds for epoch in study.history.epochs),
    )


def _figures(study: Study) -> dict[str, Markup]:
    """Drawn by name; what an older run did not note is left out."""
    assessment, history = study.assessment, study.history
    validation = [epoch.validation_loss for epoch in history.epochs]
    drawn = {
        "losses": figures.losses(*_training_losses(history), validation),
        "accuracies": figures.accuracies(
            [epoch.validation_accuracy for epoch in history.epochs], study.run.best.epoch
        ),
        "confusion": figures.confusion_matrix(assessment.confusion, study.run.config.classes),
        "reliability": figures.reliability_diagram(
            assessment.calibrated.bin_confidence,
            assessment.calibrated.bin_accuracy,
            assessment.calibrated.bin_counts,
            uncalibrated=(
                assessment.uncalibrated.bin_confidence,
                assessment.uncalibrated.bin_accuracy,
            ),
        ),
    }
    if history.steps is not None:
        rates, momenta = history.steps.learning_rate, history.steps.momentum
        drawn["schedule"] = figures.schedule(_moments(history, len(rates)), rates, momenta)
    return {name: Markup(figures.to_svg(figure)) for name, figure in drawn.items()}  # noqa: S704


def _training_losses(history: RunHistory) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Moments in epochs and the losses there: smoothed ones of each step, or those of epochs."""
    if history.steps is None:
        means = np.array([epoch.train_loss for epoch in history.epochs])
        return _moments(history, len(means)), means
    step_losses = history.steps.loss
    window = max(1, round(_SMOOTHED_OVER * len(step_losses) / len(history.epochs)))
    return _moments(history, len(step_losses)), figures.smoothed(step_losses, window)


def _moments(history: RunHistory, steps: int) -> NDArray[np.float64]:
    """When each step was done, counted in epochs: (S,)."""
    return np.arange(1, steps + 1, dtype=np.float64) * (len(history.epochs) / steps)


def draw_layer(layer: LayerHistory) -> Figure:
    """The colorful dimension of a layer that was watched."""
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
    """Names, with dots between a table and its field, and values as a person writes them."""
    for name, value in fields.items():
        if isinstance(value, Mapping):
            yield from flattened(value, f"{prefix}{name}.")
        elif isinstance(value, (list, tuple)):
            yield f"{prefix}{name}", ", ".join(map(str, value)) or "default"
        elif isinstance(value, bool):
            yield f"{prefix}{name}", "yes" if value else "no"
        else:
            yield f"{prefix}{name}", str(value)


def percent(share: float, digits: int = 1) -> str:
    """`98.3%`."""
    return f"{share:.{digits}%}"


def amount(number: float) -> str:
    """`1.12 million`; below a million, all its digits."""
    for size, name in ((1e9, "billion"), (1e6, "million")):
        if number >= size:
            return f"{number / size:.3g} {name}"
    return f"{number:,.0f}"


def duration(seconds: float) -> str:
    """`2 h 05 min`, `3 min 20 s` or `4.2 s`."""
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min"
