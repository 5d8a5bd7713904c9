"""Every command of docs/lessons.md, in order and in one folder, in a short form.

The data sets are small and random, so only that the commands work is tested here, and what they
leave for the next. Trainings without `--out` are rehearsed with `--dry-run`.
"""

import re
import shlex
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.data import dataset_cache
from pipeline.data.dataset_cache import write_cached
from pipeline.lessons import text_ladder
from pipeline.runs.run_plan import plan_run
from pipeline.text.corpus import read_corpus
from pipeline.text.run import begin
from pipeline.training.callbacks import Callback
from pipeline.training.recipe import Recipe
from tests.pipeline.cli.running import limelight
from tests.pipeline.data.test_registry import make_folder
from tests.pipeline.text.small_texts import small_recipe, write_verses
from tests.serving_kit import REPOSITORY

PAGE = (REPOSITORY / "docs" / "lessons.md").read_text()
SMALL = ("--epochs", "1", "--batch-size", "16", "--no-report")
NARROW = ("--set", "network.widths=[4,8,8,8]")
SMALL_TEXT = ("--epochs", "1", "--set", "network.hidden=16", "--set", "streams=4", "--no-report")
MISSED = "not as in the lessons"


def commands() -> list[str]:
    """Return the command lines of `limelight` on the page, without comments."""
    found = []
    for block in re.findall(r"```sh\n(.+?)```", PAGE, re.DOTALL):
        for line in block.splitlines():
            for command in line.partition(" #")[0].split("&&"):
                _, name, rest = command.partition("limelight ")
                if name and "train-setup" not in command:
                    found.append(f"limelight {rest.strip()}")
    return found


def short_form(command: str) -> list[str]:
    """Return the arguments of `limelight` for a command of the page, made short."""
    words = shlex.split(command)[1:]
    match words:
        case ["data", "fetch", "nietzsche"]:
            return [*words, "--file", "verses.txt"]
        case ["train", "--resume", *_]:
            return [*words, "--no-report"]
        case ["train" | "finetune", *_] if "--out" in words:
            larger = ("--batch-size", "64") if "cifar8" in words else ()
            narrow = NARROW if words[1] in ("cifar8", "cifar10") and words[0] == "train" else ()
            return [*words, *SMALL, *larger, *narrow]
        case ["train" | "finetune", *_]:
            return [*words, "--dry-run"]
        case ["text", "train", "--resume", *_]:
            return [*words, "--no-report"]
        case ["text", "train", *_]:
            return [*words, *SMALL_TEXT]
        case ["text", "sample", *_] if "--length" not in words:
            return [*words, "--length", "40"]
        case ["lr-find", *_]:
            return [*words, "--steps", "40", "--batch-size", "64"]
        case ["ablate", *_]:
            return [*words, "--epochs", "1", "--seeds", "1"]
        case ["ladder", "simplenet", *_]:
            return ["ladder", "simplenet"]
        case ["report", *_]:
            return [*words, "--no-tta"]
        case ["export", *_]:
            # Its gates reject what a network learned from noise.
            return [*words, "--help"]
    return words


class StoppedError(Exception):
    """Stands for an interruption."""


class Stop(Callback):
    """Interrupts a run after its first epoch."""

    def end_batch(self, *_: object) -> None:
        """Go on."""

    def end_epoch(self, *_: object) -> None:
        raise StoppedError


def write_images(name: str, side: int, channels: int, rng: np.random.Generator) -> None:
    """Write a data set of noise, whose classes have different brightness, into the cache."""
    arrays = {}
    for part, count in (("train", 580), ("test", 40)):
        labels = np.arange(count, dtype=np.uint8) % 10
        noise = rng.integers(0, 60, (count, side, side, channels))
        arrays[f"{part}_images"] = (noise + 19 * labels[:, None, None, None]).astype(np.uint8)
        arrays[f"{part}_labels"] = labels
    write_cached(name, arrays)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return a working folder with everything that the page expects of a reader."""
    work = tmp_path_factory.mktemp("walk")
    rng = np.random.default_rng(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dataset_cache, "verify", lambda *_: None)
        patch.setenv("XDG_CACHE_HOME", str(work / "cache"))
        write_images("mnist", 28, 1, rng)
        write_images("cifar10", 32, 3, rng)
        (work / "examples").symlink_to(REPOSITORY / "examples")
        make_folder(work / "my-photos", images=40, size=(16, 16))
        photos = sorted((work / "my-photos").rglob("*.png"))
        lines = [f"{photo.relative_to(work)},{photo.parent.name}" for photo in photos]
        (work / "labels.csv").write_text("path,label\n" + "\n".join(lines) + "\n")
        (work / "photos").mkdir()
        Image.new("RGB", (32, 32)).save(work / "photos" / "one.png")
        write_verses(work, words=250)
        small = {"epochs": 1, "network__hidden": 16}
        rungs = [
            replace(rung, changes={**rung.changes, **small}) for rung in text_ladder.TEXT_LADDER
        ]
        patch.setattr(text_ladder, "TEXT_LADDER", rungs)
        yield work


def interrupt_run(work: Path) -> None:
    """Leave runs/cifar10 as an interruption of its second epoch would."""
    run = work / "runs" / "cifar10"
    run.rename(run.with_name("first-cifar10"))
    recipe = Recipe.load("convnet", epochs=2, batch_size=64)
    plan = plan_run(
        "cifar10", recipe_name="convnet", recipe=recipe, seed=0, device=torch.device("cpu")
    )
    with pytest.raises(StoppedError):
        plan.train(run, [Stop()])


def interrupt_text_run(work: Path) -> None:
    """Leave runs/char-lstm as an interruption of its second epoch would."""
    recipe = small_recipe("char-lstm", epochs=2)
    run = work / "runs" / "char-lstm"
    run.rename(run.with_name("first-char-lstm"))
    with pytest.raises(StoppedError):
        begin(
            read_corpus(str(work / "verses.txt")), run, recipe_name="char-lstm", recipe=recipe,
            device="cpu", observers=[Stop()],
        )  # fmt: skip


@pytest.mark.parametrize("command", commands())
def test_command_of_the_page_works(command: str, folder: Path) -> None:
    if command.startswith("limelight train --resume"):
        interrupt_run(folder)
    if command.startswith("limelight text train --resume"):
        interrupt_text_run(folder)
    done = limelight(*short_form(command), cwd=folder)
    if command.startswith("limelight ladder"):
        # What is learned from a small text or noise is not what the lessons reach.
        assert done.returncode == 0 or MISSED in done.stderr, done.stderr
        assert "| reached |" in done.stdout
    else:
        assert done.returncode == 0, done.stderr
        assert done.stdout or "--dry-run" in short_form(command)


def test_page_has_the_sections_of_both_lessons_in_order() -> None:
    numbers = [int(each) for each in re.findall(r"^## (\d+)\. ", PAGE, re.MULTILINE)]
    assert numbers == list(range(1, 21))
    networks = re.findall(r"^limelight text train (char[\w-]+)", PAGE, re.MULTILINE)
    assert networks == [
        "char3", "char-loop", "char-rnn", "char-stateful", "char-rnncell", "char-gru", "char-lstm",
    ]  # fmt: skip
    assert len(commands()) > 40
