"""The character language models of the lesson, each compared with the loss in it.

The losses are from fast.ai's lessons 6 and 7 (2018, lesson6-rnn): validation losses in nats per
character, on the end of the same text.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

TEXT = "nietzsche"


@dataclass(frozen=True, kw_only=True, slots=True)
class TextRung:
    """A recipe, and the validation loss of that network in the lesson."""

    recipe: str
    lesson: float | None = None
    """Its loss; None if the lesson names none for this network."""
    lesson_epochs: int | None = None
    changes: Mapping[str, object] = field(default_factory=dict)


TEXT_LADDER = (
    TextRung(recipe="char3"),
    TextRung(recipe="char-loop"),
    TextRung(recipe="char-rnn"),
    TextRung(recipe="char-stateful"),
    TextRung(recipe="char-rnncell", lesson=1.54, lesson_epochs=4),
    # Six epochs at 1e-3 and three at 1e-4.
    TextRung(recipe="char-gru", lesson=1.36, lesson_epochs=9),
    # Two epochs at 1e-2, then SGDR over 2**6 - 1 at the same peak; after 2**4 - 1 of these its loss
    # is 1.29. With the recipe's lower peak, the sixth cycle overfits.
    TextRung(
        recipe="char-lstm",
        lesson=1.25,
        lesson_epochs=65,
        changes={"epochs": 63, "schedule__peak": 1e-2, "weight_decay": 1e-5, "ema_decay": 0.999},
    ),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class TextClimbed:
    """Result of a rung."""

    rung: TextRung
    epochs: int
    loss: float
    """Validation loss of the best epoch, in nats per character."""
    accuracy: float
    parameters: int
    seconds: float
    guessing: float
    """Loss of guessing by the frequencies of the characters."""

    @property
    def passed(self) -> bool:
        """True if the run reaches the lesson's loss in its epochs, or beats the frequencies."""
        if self.rung.lesson is None or self.rung.lesson_epochs is None:
            return self.loss < self.guessing
        # The lesson's losses have two digits here.
        return self.epochs <= self.rung.lesson_epochs and round(self.loss, 2) <= self.rung.lesson


def find_text_rungs(names: Iterable[str]) -> list[TextRung]:
    """Return the rungs whose recipes are named, or all, in order."""
    wanted = set(names)
    return [rung for rung in TEXT_LADDER if not wanted or rung.recipe in wanted]


def text_table(climbed: Iterable[TextClimbed]) -> str:
    """Write a table that compares the results with the lesson."""
    lines = [
        "| network | parameters | lesson | its epochs | ours | epochs | accuracy | time "
        "| reached |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for each in climbed:
        rung = each.rung
        lesson = "" if rung.lesson is None else f"{rung.lesson:.2f}"
        lines.append(
            f"| {rung.recipe} | {each.parameters:,} | {lesson} | {rung.lesson_epochs or ''} | "
            f"{each.loss:.3f} | {each.epochs} | {each.accuracy:.1%} | {each.seconds:.0f} s | "
            f"{'yes' if each.passed else '**no**'} |"
        )
    return "\n".join(lines) + "\n"
