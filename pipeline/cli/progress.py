"""The progress display of every command, on standard error."""

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from pipeline.cli.console import console


def progress_bar(*columns: ProgressColumn, transient: bool = False) -> Progress:
    """Make a display of bars, each with a description, `columns` and the remaining time.

    Without `columns` it shows how many of how many steps are done. With `transient` it disappears
    at the end.
    """
    middle = columns or (MofNCompleteColumn(),)
    shown = (TextColumn("{task.description}"), BarColumn(), *middle, TimeRemainingColumn())
    return Progress(*shown, console=console, transient=transient)


class ImagesPerSecond(ProgressColumn):
    """Column for tasks that are counted in images."""

    def render(self, task: Task) -> Text:
        """Write the present speed, if it is known yet."""
        return Text(f"{task.speed:,.0f} images/s" if task.speed else "")
