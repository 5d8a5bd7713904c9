"""`~` in the paths of every command, where a shell leaves it alone, as in `--out=~/run`."""

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
from typer.models import ArgumentInfo

from pipeline.cli import main
from pipeline.cli.home_folder import with_home_folder
from tests.pipeline.cli.running import limelight

GROUPS = ("data", "keys", "models", "text")
COMMANDS = [name for name in main.COMMANDS if name not in GROUPS]
MAY_BE_PATHS = {"files", "kernel", "model", "network", "pretrained", "recipe", "source", "teachers"}
"""Texts that may be a path."""
NO_PATHS = {
    "against", "api_key", "arch", "colormap", "column", "device", "engine", "field", "image_size",
    "level", "lr", "method", "name", "networks", "receptive_field", "settings", "target",
    "track", "url",
}  # fmt: skip


def parameters(command: str) -> dict[str, tuple[set[Any], bool]]:
    """The types of each parameter of a command, and whether it is positional, by name."""
    found = {}
    for name, parameter in inspect.signature(main._load(command)).parameters.items():
        kind, *infos = get_args(parameter.annotation) or (parameter.annotation,)
        kinds = {kind, *get_args(kind), *(each for arg in get_args(kind) for each in get_args(arg))}
        found[name] = kinds, any(isinstance(info, ArgumentInfo) for info in infos)
    return found


def paths(command: str) -> dict[str, bool]:
    """The parameters of a command that may be paths: name -> whether it is positional."""
    return {
        name: positional
        for name, (kinds, positional) in parameters(command).items()
        if Path in kinds or (str in kinds and name in MAY_BE_PATHS)
    }


@pytest.mark.parametrize("command", COMMANDS)
def test_home_folder_is_meant_in_every_path_of_every_command(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {}
    load = main._load

    def load_recorder(name: str) -> Callable[..., None]:
        @functools.wraps(load(name))
        def record(**arguments: Any) -> None:
            given.update(arguments)

        return record

    options = {"pretrained": "--from", "teachers": "--teacher"}
    # With a suffix, since some commands check that of a figure.
    arguments = [
        f"~/{name}.svg" if positional else f"{options.get(name, f'--{name}')}=~/{name}.svg"
        for name, positional in paths(command).items()
    ]
    monkeypatch.setattr(main, "_load", load_recorder)
    monkeypatch.setenv("HOME", str(tmp_path))
    done = limelight(command, *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for name in paths(command):
        value = given[name][0] if isinstance(given[name], list) else given[name]
        assert str(value) == str(tmp_path / f"{name}.svg")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_text_is_known_to_be_a_path_or_none(command: str) -> None:
    texts = {name for name, (kinds, _) in parameters(command).items() if str in kinds}
    assert texts <= MAY_BE_PATHS | NO_PATHS


def test_a_tilde_that_is_no_home_folder_stays() -> None:
    given: dict[str, Any] = {}
    run = with_home_folder(lambda **arguments: given.update(arguments))
    texts = {"target": "~", "near": "~5", "inside": "a/~/b", "unknown": "~no-such-user/x"}
    run(**texts, out=Path("a~"), nothing=None, number=3)
    assert given == {**texts, "out": Path("a~"), "nothing": None, "number": 3}
