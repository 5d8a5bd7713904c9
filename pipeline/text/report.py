"""`report.html` of a character language model: curves, and samples at the end of each cycle."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from markupsafe import Markup

from models.text.network import TextNetwork
from pipeline.atomic_files import write_text
from pipeline.console import next_command
from pipeline.report import REPORT, figures
from pipeline.report.history import read_history
from pipeline.report.page import TEMPLATES, flattened
from pipeline.templating import render_template
from pipeline.text.run import TextRun
from pipeline.text.sampling import sample

PROMPT, LENGTH = "for thos", 400
"""The lesson's prompt, and length of each sample."""
_OWN_TEMPLATES = Path(__file__).parent / "templates"
# Each point of the training curve is the mean over this share of an epoch's steps.
_SMOOTHED_OVER = 0.25


@dataclass(frozen=True, kw_only=True, slots=True)
class CycleSample:
    """Text that the network wrote at the end of a cycle, after the prompt."""

    cycle: int
    epoch: int
    validation_loss: float
    drawn: str
    greedy: str


def write_text_report(run: TextRun) -> Path:
    """Write the `report.html` of a run into its folder, and return its path.

    Raises:
        RunError: its files cannot be read.
        UnwritableError: the report cannot be written.

    """
    page = render_template(
        "text.html",
        _OWN_TEMPLATES,
        TEMPLATES,
        run=run,
        config=run.config,
        best=run.best,
        figures=_figures(run),
        samples=_samples(run),
        prompt=PROMPT,
        parameters=sum(each.numel() for each in run.network.parameters()),
        seconds=sum(epoch.seconds for epoch in run.epochs),
        recipe=list(flattened(run.config.recipe.model_dump(mode="json"))),
        again=next_command("limelight", "text", "report", run.folder),
    )
    report = run.folder / REPORT
    write_text(report, page)
    return report


def _samples(run: TextRun) -> list[CycleSample]:
    """Let the network of each cycle's end write, with the seed of the run."""
    losses = {epoch.epoch: epoch.validation_loss for epoch in run.epochs}
    return [
        CycleSample(
            cycle=number,
            epoch=epoch,
            validation_loss=losses[epoch],
            drawn=_written(run, network, greedy=False),
            greedy=_written(run, network, greedy=True),
        )
        for number, (epoch, network) in enumerate(run.cycles(), start=1)
        # An interruption may come between the weights of a cycle and the record of its last epoch.
        if epoch in losses
    ]


def _written(run: TextRun, network: TextNetwork, *, greedy: bool) -> str:
    return sample(
        network,
        run.vocabulary,
        PROMPT,
        LENGTH,
        bptt=run.config.recipe.bptt,
        seed=run.config.seed,
        greedy=greedy,
    )


def _figures(run: TextRun) -> dict[str, Markup]:
    history = read_history(run.folder)
    steps = history.steps
    assert steps is not None  # noqa: S101  # every run of this kind records them
    count, epochs = len(steps.loss), len(run.epochs)
    times = np.arange(1, count + 1, dtype=np.float64) * (epochs / count)
    window = max(1, round(_SMOOTHED_OVER * count / epochs))
    drawn = {
        "losses": figures.losses(
            times,
            figures.smoothed(steps.loss, window),
            [epoch.validation_loss for epoch in run.epochs],
        ),
        "accuracies": figures.accuracies(
            [epoch.validation_accuracy for epoch in run.epochs], run.best.epoch
        ),
        "schedule": figures.schedule(times, steps.learning_rate, steps.momentum),
    }
    return {name: Markup(figures.to_svg(figure)) for name, figure in drawn.items()}  # noqa: S704
