"""What a training run will do, in a few lines."""

from pipeline.data.class_balance import imbalance_report
from pipeline.data.dataset import Dataset
from pipeline.runs.run_plan import RunPlan
from pipeline.training.weights import make_network
from pipeline.wording import amount


def introduction(plan: RunPlan) -> list[str]:
    """Describe the data, the network and the length of a run before it begins."""
    config = plan.config
    recipe, image = config.recipe, config.image
    fit, validation = plan.data.fit, plan.data.validation
    processes = f" by {config.processes} processes" if config.processes > 1 else ""
    lines = [
        f"{config.source}: {len(config.classes)} classes, {len(fit):,} images to fit, "
        f"{len(validation):,} to validate on, {len(plan.dataset.test):,} to test"
        f"{_not_read(plan.dataset)}; on {config.device}"
        f"{' in bfloat16' if config.bfloat16 else ''}{processes}",
        f"{recipe.network.architecture} at {image.width} x {image.height} pixels, "
        f"{recipe.freeze_epochs + recipe.epochs:,} epochs of "
        f"{len(fit) // recipe.batch_size:,} batches of {recipe.batch_size:,} images, at a rate of "
        f"up to {recipe.schedule.peak}",
    ]
    if config.pretrained:
        lines.append(f"initialised from {config.pretrained}")
    if config.teachers:
        names = ", ".join(teacher.name for teacher in config.teachers)
        lines.append(f"distilling from {names}; the labels are not used")
    uneven = imbalance_report(plan.dataset.train.labels, config.classes)
    if uneven and not recipe.class_weights:
        lines.append(uneven)
    return lines


def outlook(plan: RunPlan) -> list[str]:
    """Describe what a dry run adds: the classes, the size of the network, and its options."""
    config, recipe = plan.config, plan.config.recipe
    channels = config.image.channels
    network = make_network(recipe, channels=channels, classes=len(config.classes))
    parameters = sum(each.numel() for each in network.parameters())
    epochs = recipe.freeze_epochs + recipe.epochs
    steps = epochs * (len(plan.data.fit) // recipe.batch_size)
    augmentation = recipe.augmentation.model_dump(exclude_defaults=True)
    chosen = ", ".join(f"{name} {value}" for name, value in augmentation.items())
    return [
        f"classes: {', '.join(config.classes)}",
        f"{amount(parameters)} parameters, {recipe.optimizer.kind}, {steps:,} steps",
        f"augmentation: {chosen or 'none'}",
        "nothing was trained or written",
    ]


def _not_read(dataset: Dataset) -> str:
    """Say how many files were skipped: unknown suffixes, and images that cannot be read."""
    kinds = [f"{count:,} {suffix}" for suffix, count in dataset.unread.items()]
    if dataset.skipped:
        kinds.append(f"{len(dataset.skipped):,} unreadable")
    count = sum(dataset.unread.values()) + len(dataset.skipped)
    return f" ({count:,} files skipped: {', '.join(kinds)})" if count else ""
