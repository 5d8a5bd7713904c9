"""A model to sample from: a run folder, or an ONNX file."""

from dataclasses import dataclass
from pathlib import Path

from pipeline.text.corpus import Vocabulary
from pipeline.text.sampling import Stepper, TorchStepper, window_of


@dataclass(frozen=True, kw_only=True, slots=True)
class OpenedModel:
    """A model that can write."""

    stepper: Stepper
    vocabulary: Vocabulary
    window: int | None


def open_model(path: Path) -> OpenedModel:
    """Open a run folder, or a file of `limelight text export`.

    Raises:
        PipelineError: it is neither.

    """
    if path.is_file():
        from pipeline.text.onnx_file import OnnxText

        opened = OnnxText(path)
        return OpenedModel(stepper=opened, vocabulary=opened.vocabulary, window=opened.window)
    from pipeline.text.run import read_run

    run = read_run(path)
    window = window_of(run.network, run.config.recipe.bptt)
    return OpenedModel(
        stepper=TorchStepper(run.network, window), vocabulary=run.vocabulary, window=window
    )
