"""The bar of a command's steps."""

import io

import pytest
from rich.console import Console

from pipeline import console as messages
from pipeline import progress_bars
from pipeline.progress_bars import step_bar


def shown(monkeypatch: pytest.MonkeyPatch, *, terminal: bool, quiet: bool = False) -> str:
    """Show three steps, and return what standard error would have."""
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=terminal, width=100)
    for module in (messages, progress_bars):
        monkeypatch.setattr(module, "console", console)
    with step_bar(quiet=quiet) as tell:
        tell("reading", 0, 0)
        for done in range(3):
            tell("measuring the maps", done, 3)
        tell("writing [b]model.onnx", 0, 0)
    return stream.getvalue()


def test_a_file_gets_each_step_as_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = shown(monkeypatch, terminal=False).splitlines()
    assert lines == ["reading", "measuring the maps", "writing [b]model.onnx"]


def test_a_terminal_gets_a_bar_with_the_name_of_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = shown(monkeypatch, terminal=True)
    assert "writing [b]model.onnx" in drawn


def test_quiet_shows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown(monkeypatch, terminal=True, quiet=True) == ""
