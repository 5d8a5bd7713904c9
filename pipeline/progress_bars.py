"""The progress display of every command, on standard error."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from pipeline.console import console, say
from pipeline.progress import Progress as Report
from pipeline.progress import silent


def progress_bar(*columns: ProgressColumn, transient: bool = False) -> Progress:
    """Make a display of bars, each with a description, `columns` and the remaining time.

    Without `columns` it shows how many of how many steps are done. With `transient` it disappears
    at the end.
    """
    middle = columns or (MofNCompleteColumn(),)
    shown = (TextColumn("{task.description}"), BarColumn(), *middle, TimeRemainingColumn())
    return Progress(*shown, console=console, transient=transient)


@contextmanager
def reading_bar(*, quiet: bool = False) -> Iterator[Callable[[int, int], None]]:
    """Yield a function that draws how many images were read; the bar appears at its first call."""
    if quiet:
        yield lambda done, total: None
        return
    with ExitStack() as stack:
        shown: list[tuple[Progress, TaskID]] = []

        def tell(done: int, total: int) -> None:
            if not shown:
                bar = stack.enter_context(progress_bar(MofNCompleteColumn(), ImagesPerSecond()))
                shown.append((bar, bar.add_task("reading images", total=total)))
            bar, task = shown[0]
            bar.update(task, completed=done)

        yield tell


@contextmanager
def step_bar(*, quiet: bool = False) -> Iterator[Report]:
    """Draw a bar for the present step while the context lasts; in a file, each step is a line."""
    if quiet:
        yield silent
        return
    if not console.is_terminal:
        yield _Lines()
        return
    with progress_bar(transient=True) as bar:
        task = bar.add_task("", total=None)

        def show(step: str, done: int, total: int) -> None:
            bar.update(task, description=escape(step), completed=done, total=total or None)

        yield show


class _Lines:
    """Progress that says each step once."""

    def __init__(self) -> None:
        self._present = ""

    def __call__(self, step: str, done: int, total: int) -> None:
        if step != self._present:
            self._present = step
            say(step)


class ImagesPerSecond(ProgressColumn):
    """Column for tasks that are counted in images."""

    def render(self, task: Task) -> Text:
        """Write the present speed, if it is known yet."""
        return Text(f"{task.speed:,.0f} images/s" if task.speed else "")
