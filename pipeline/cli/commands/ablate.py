"""`limelight ablate`."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.atomic_files import write_text
from pipeline.cli.training_options import BatchSize, Device, Epochs
from pipeline.console import say
from pipeline.data.registry import check_source, load_dataset
from pipeline.lessons.ablation import CHOICES, as_markdown, variants
from pipeline.lessons.ablation import ablate as run_ablation
from pipeline.runs.training_display import training_bar
from pipeline.training.recipe import Recipe


def ablate(
    recipe: Annotated[str, typer.Argument(help="a recipe or a TOML file")] = "resnet-max",
    field: Annotated[
        list[str] | None,
        typer.Option(help=f"{', '.join(CHOICES)}; may be repeated; default: all"),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="runs of each variant")] = 1,
    epochs: Epochs = None,
    batch_size: BatchSize = None,
    out: Annotated[Path, typer.Option(help="folder of the runs")] = Path("runs/ablation"),
    device: Device = "auto",
) -> None:
    """Change one option at a time: order of ReLU and norm, the norm, the pooling of the head.

    Prints a table of validation accuracies; the test set is not used. Runs that exist in OUT are
    not trained again.

    Example: limelight ablate resnet-max --field order --epochs 8 --seeds 3
    """
    base = Recipe.load(recipe, epochs=epochs, batch_size=batch_size)
    changed = variants(base, field or list(CHOICES))
    check_source(base.data)
    # torch takes seconds to import: what can be refused without it is refused before.
    from pipeline.runs.run_plan import complete_run, plan_run
    from pipeline.training.device import choose_device

    chosen = choose_device(device)
    dataset = load_dataset(base.data)

    def train(variant: Recipe, seed: int, folder: Path) -> float:
        say(folder.name)
        plan = plan_run(
            base.data,
            recipe_name=recipe,
            recipe=variant,
            seed=seed,
            device=chosen,
            dataset=dataset,
        )
        with training_bar() as bar:
            return complete_run(plan, folder, [bar]).best.validation_accuracy

    table = as_markdown(run_ablation(changed, range(seeds), train, out))
    write_text(out / "ablation.md", table)
    print(table, end="")
