"""Results of the text half of the ladder."""

from dataclasses import replace
from pathlib import Path

import pytest

from models.text.options import ARCHITECTURES
from pipeline.errors import PipelineError
from pipeline.lessons.text_climbing import climb_text
from pipeline.lessons.text_ladder import TEXT_LADDER, TextClimbed, TextRung, text_table
from pipeline.text.corpus import read_corpus
from pipeline.text.recipe import TextRecipe
from tests.pipeline.cli.running import limelight
from tests.pipeline.text.small_texts import small_recipe, write_verses

REACHED = TextClimbed(
    rung=TextRung(recipe="char-gru", lesson=1.36, lesson_epochs=9),
    epochs=9,
    loss=1.3644,
    accuracy=0.5,
    parameters=1000,
    seconds=2.0,
    guessing=3.0,
)


@pytest.mark.parametrize(
    ("change", "passed"),
    [
        ({}, True),
        ({"loss": 1.3655}, False),
        ({"loss": 1.2, "epochs": 10}, False),
        ({"rung": TextRung(recipe="char3")}, True),
        ({"rung": TextRung(recipe="char3"), "loss": 3.1}, False),
    ],
    ids=str,
)
def test_rung_passes_with_the_loss_and_epochs_of_its_lesson(
    change: dict[str, object], passed: bool
) -> None:
    assert replace(REACHED, **change).passed is passed  # type: ignore[arg-type]


def test_ladder_has_every_network_and_no_more_epochs_than_the_lesson() -> None:
    assert tuple(rung.recipe for rung in TEXT_LADDER) == ARCHITECTURES
    for rung in TEXT_LADDER:
        recipe = TextRecipe.load(rung.recipe, **rung.changes)
        assert recipe.network.architecture == rung.recipe
        assert rung.lesson_epochs is None or recipe.epochs <= rung.lesson_epochs


def test_text_rung_is_trained_once_and_continued(tmp_path: Path) -> None:
    corpus = read_corpus(str(write_verses(tmp_path, words=500)))
    rung, recipe = TEXT_LADDER[4], small_recipe("char-rnncell", epochs=2)
    folder = tmp_path / "rung"

    class StoppedError(Exception):
        pass

    class Stop:
        def end_batch(self, *_: object) -> None:
            pass

        def end_epoch(self, *_: object) -> None:
            raise StoppedError

    with pytest.raises(StoppedError):
        climb_text(rung, folder, corpus, seed=0, device="cpu", recipe=recipe, observers=[Stop()])
    first = climb_text(rung, folder, corpus, seed=0, device="cpu", recipe=recipe)
    assert first.loss < first.guessing
    # An observer that stops training is not called: nothing is trained.
    again = climb_text(
        rung, folder, corpus, seed=0, device="cpu", recipe=recipe, observers=[Stop()]
    )
    assert again == first
    with pytest.raises(PipelineError, match="has a run with another seed"):
        climb_text(rung, folder, corpus, seed=1, device="cpu", recipe=recipe)
    with pytest.raises(PipelineError, match="has a run with another recipe"):
        climb_text(rung, folder, corpus, seed=0, device="cpu")
    table = text_table([first])
    assert f"| char-rnncell | {first.parameters:,} | 1.54 | 4 | {first.loss:.3f} | 2 |" in table


def test_command_needs_the_text_of_the_rungs_that_are_named(tmp_path: Path) -> None:
    done = limelight("ladder", "char3", cwd=tmp_path)
    assert done.returncode == 1
    assert "run `limelight data fetch nietzsche`" in done.stderr
    done = limelight("ladder", "char4", cwd=tmp_path)
    assert "no rung char4; there are: conv-bn-net" in done.stderr
    assert "char3, char-loop" in done.stderr
