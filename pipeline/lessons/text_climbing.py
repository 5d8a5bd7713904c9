"""Train a character language model of the ladder."""

from collections.abc import Sequence
from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.lessons.text_ladder import TextClimbed, TextRung
from pipeline.runs.run_folder import CONFIG, is_finished
from pipeline.text.corpus import Corpus, entropy
from pipeline.text.recipe import TextRecipe
from pipeline.text.run import Observer, begin, read_config, read_run, resume


def climb_text(
    rung: TextRung,
    folder: Path,
    corpus: Corpus,
    *,
    seed: int,
    device: str,
    observers: Sequence[Observer] = (),
    recipe: TextRecipe | None = None,
) -> TextClimbed:
    """Train a rung in `folder`, or the rest of it, unless that was done before.

    `recipe` replaces that of the rung.

    Raises:
        PipelineError: `folder` has a run with other options or another text.

    """
    recipe = recipe or TextRecipe.load(rung.recipe, **rung.changes)
    if not (folder / CONFIG).is_file():
        begin(
            corpus,
            folder,
            recipe_name=rung.recipe,
            recipe=recipe,
            seed=seed,
            device=device,
            observers=observers,
        )
    found = read_config(folder)
    for name, expected in (
        ("seed", seed),
        ("recipe", recipe),
        ("data_sha256", corpus.sha256),
    ):
        if getattr(found, name) != expected:
            raise PipelineError(
                f"{folder} has a run with another {name.replace('_', ' ')}; choose another --out, "
                "or remove it"
            )
    if not is_finished(folder):
        resume(folder, device=device, observers=observers)
    run = read_run(folder)
    return TextClimbed(
        rung=rung,
        epochs=recipe.epochs,
        loss=run.best.validation_loss,
        accuracy=run.best.validation_accuracy,
        parameters=sum(each.numel() for each in run.network.parameters()),
        seconds=sum(epoch.seconds for epoch in run.epochs),
        guessing=entropy(corpus.validation),
    )
