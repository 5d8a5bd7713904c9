"""A command imports slow libraries when it begins its work, not to show its help or to refuse."""

import json
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline.cli.main import COMMANDS
from tests.pipeline.cli.running import limelight_command

SLOW = frozenset(
    {
        "bentoml",
        "jinja2",
        "matplotlib",
        "mlflow",
        "onnx",
        "onnxruntime",
        "onnxscript",
        "pandas",
        "pyarrow",
        "pytorch_grad_cam",
        "ray",
        "safetensors",
        "scipy",
        "sklearn",
        "sympy",
        "tensorboard",
        "torch",
        "torchmetrics",
        "torchvision",
    }
)
GROUPS = {
    "data": ("fetch", "list"),
    "text": ("train", "sample", "export", "report"),
    "models": ("list", "activate", "rollback", "label", "canary", "shadow", "finish", "watch"),
    "keys": ("new", "hash"),
}
LEAVES = [
    *((name,) for name in COMMANDS if name not in GROUPS),
    *((group, name) for group, names in GROUPS.items() for name in names),
]


# Runs each command line in a fork of a process that has imported what all commands need.
RUN_ALL = """
import json, os, sys
from pathlib import Path
import numpy, pydantic, typer.rich_utils
from tests.pipeline.cli.running import limelight

for number, arguments in enumerate(json.load(sys.stdin)):
    if (child := os.fork()) == 0:
        done = limelight(*arguments, cwd=Path.cwd())
        imported = sorted({name.partition(".")[0] for name in sys.modules})
        Path(f"{number}.json").write_text(json.dumps([done.returncode, done.stderr, imported]))
        os._exit(0)
    os.waitpid(child, 0)
"""


@dataclass(frozen=True)
class Ran:
    """Result of a command line, and the packages that its process has imported."""

    status: int
    stderr: str
    imported: frozenset[str]


def run_all(command_lines: Sequence[Sequence[str]], folder: Path) -> Iterator[Ran]:
    """Run command lines in `folder`, one after another."""
    command, environment = limelight_command(cwd=folder)
    subprocess.run(
        [command[0], "-c", RUN_ALL],
        cwd=folder,
        env=environment,
        input=json.dumps(command_lines),
        text=True,
        check=True,
    )
    for number in range(len(command_lines)):
        status, stderr, imported = json.loads((folder / f"{number}.json").read_text())
        yield Ran(status, stderr, frozenset(imported))


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> dict[Sequence[str], Ran]:
    """Return what `--help` of each command does."""
    command_lines = [(*command, "--help") for command in LEAVES]
    return dict(zip(LEAVES, run_all(command_lines, tmp_path_factory.mktemp("help")), strict=True))


@pytest.mark.parametrize("command", LEAVES, ids=" ".join)
def test_help_imports_no_slow_library(
    command: tuple[str, ...], shown: dict[Sequence[str], Ran]
) -> None:
    assert shown[command].status == 0
    assert shown[command].imported & SLOW == set()


def write_run(folder: Path, source: str) -> None:
    """Write a run folder without weights, which nothing is read from before a refusal."""
    config = {
        "created": "2026-11-26T00:00:00+00:00",
        "source": source,
        "image_size": 8,
        "image": {
            "height": 8, "width": 8, "mode": "L", "fit": "ink", "invert": "light-border",
            "background": 255,
        },
        "data_sha256": "0" * 64,
        "classes": ["3", "7"],
        "recipe_name": "digits8",
        "recipe": {
            "data": "digits8",
            "network": {"architecture": "resnet"},
            "epochs": 1,
            "batch_size": 2,
            "schedule": {"kind": "constant", "peak": 0.1},
        },
        "seed": 0,
        "device": "cpu",
        "bfloat16": False,
        "threads": 1,
        "normalisation": {"mean": [0.5], "std": [0.5]},
        "libraries": {},
    }  # fmt: skip
    epoch = {
        "epoch": 1, "train_loss": 1.0, "validation_loss": 1.0, "validation_accuracy": 0.5,
        "learning_rate": 0.1, "seconds": 1.0,
    }  # fmt: skip
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "epochs.jsonl").write_text(json.dumps(epoch) + "\n")
    (folder / "checkpoint.safetensors").touch()


REFUSED = (
    (("train", "nothing"), "is neither a data set"),
    (("train", "mnist"), "run `limelight data fetch mnist`"),
    (("train", "digits8", "--seed", "-1"), "Invalid value for '--seed'"),
    (("text", "train", "char-gru", "x.txt", "--seed", "-1"), "Invalid value for '--seed'"),
    (("text", "sample", "run", "--seed", "-1"), "Invalid value for '--seed'"),
    (("train", "digits8", "--recipe", "nothing"), "no recipe 'nothing'"),
    (("train", "digits8", "--set", "epochs=0"), "epochs: Input should be greater than"),
    (("train", "--resume", "nothing"), "is not a run"),
    (("finetune", "digits8", "--from", "nothing"), "there is no model 'nothing'"),
    (("lr-find", "nothing"), "is neither a data set"),
    (("export", "nothing"), "neither a run nor an artefact"),
    (("summary", "nothing.toml"), "no recipe"),
    (("predict", "nothing.png"), "there is no such file"),
    (("explain", "nothing.png", "-o", "map.png"), "there is no such file"),
    (("report", "nothing"), "is not a run"),
    (("report", "run"), "run `limelight data fetch mnist`"),
    (("report", "run", "--device", "tpu"), "'tpu' is not one of"),
    (("report", "moved"), "is neither a data set"),
    (("inspect", "nothing", "x.png"), "is not a run"),
    (("inspect", "nothing", "x.png", "--out", "x.gif"), "x.gif: a figure is written as .svg"),
    (("lr-find", "digits8", "--out", "x.gif"), "x.gif: a figure is written as .svg"),
    (("summary", "digits8", "--out", "x.gif"), "x.gif: a figure is written as .svg"),
    (("convolve", "x.png", "--kernel", "top-edge", "--out", "x"), "x: a figure is written as"),
    (("inspect", "run", "nothing.png"), "nothing.png cannot be read"),
    (("convolve", "nothing.png"), "nothing.png cannot be read"),
    (("text", "train", "nothing", "x.txt"), "no recipe 'nothing'"),
    (("text", "train", "char-gru", "nothing"), "neither a text file"),
    (("text", "train", "char-gru", "nietzsche"), "run `limelight data fetch nietzsche`"),
    (("text", "sample", "nothing"), "nothing is not there"),
    (("text", "export", "nothing"), "nothing is not a run"),
    (("text", "report", "nothing"), "nothing is not a run"),
    (("ladder", "nothing"), "no rung nothing; there are:"),
    (("ladder", "simplenet"), "run `limelight data fetch cifar10`"),
    (("ablate", "nothing"), "no recipe 'nothing'"),
    (("ablate", "digits8", "--field", "nothing"), "nothing to ablate in 'nothing'"),
    (("ablate", "resnet-max"), "run `limelight data fetch cifar10`"),
    (("data", "fetch", "imagenet"), "there are: mnist, cifar10"),
    (("score", "photos"), "Missing option"),
    (("keys", "new", "the shop"), "is no name"),
)
"""Command lines with words of the error."""


@pytest.fixture(scope="module")
def refused(tmp_path_factory: pytest.TempPathFactory) -> dict[Sequence[str], Ran]:
    """Return what each refused command line does."""
    folder = tmp_path_factory.mktemp("refused")
    write_run(folder / "run", "mnist")
    write_run(folder / "moved", str(folder / "photos"))
    command_lines = [arguments for arguments, _ in REFUSED]
    return dict(zip(command_lines, run_all(command_lines, folder), strict=True))


@pytest.mark.parametrize(("arguments", "words"), REFUSED, ids=" ".join)
def test_refused_command_line_imports_no_slow_library(
    arguments: tuple[str, ...], words: str, refused: dict[Sequence[str], Ran]
) -> None:
    assert refused[arguments].status != 0
    assert words in refused[arguments].stderr
    assert refused[arguments].imported & SLOW == set()


def test_training_imports_nothing_that_only_an_export_or_a_report_needs(tmp_path: Path) -> None:
    command, environment = limelight_command(cwd=tmp_path)
    listed = subprocess.run(
        [command[0], "-c", "import sys, pipeline.api; print(*sys.modules)"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    imported = {name.partition(".")[0] for name in listed.stdout.split()}
    assert "torch" in imported
    assert imported & SLOW == {"torch", "safetensors"}
