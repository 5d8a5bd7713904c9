"""The meaning of `--model`: a run, an artefact, or a model by its name."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from limelight.artifact.manifest import MANIFEST_FILE
from limelight.artifact.store import (
    ArtifactError,
    find_artifacts,
    newest_version,
    shipped_models,
)
from pipeline.errors import PipelineError
from pipeline.runs.run_folder import CONFIG


@dataclass(frozen=True, slots=True)
class ModelChoice:
    """A run folder, or the folder of an artefact."""

    kind: Literal["run", "artefact"]
    folder: Path


def choose_model(model: str, models: Path | None = None) -> ModelChoice:
    """Find the model that the user means by `--model`.

    It is the path of a run, of an artefact or of a model's folder of versions; or the name of a
    model in `models`, by default the shipped ones. With `models`, a name means a model in there.

    Raises:
        PipelineError: there is no such model, or a name and a folder here are different models.

    """
    here = model_at(Path(model))
    named = _named_models(models).get(model)
    if named is None:
        if here is None:
            raise PipelineError(_absent(model, models))
        return here
    if here is None or models is not None or here.folder.samefile(named):
        return ModelChoice("artefact", named)
    raise PipelineError(
        f"{model} is the name of a model and a folder here: say ./{model} for the folder, or "
        f"{named.parent} for the model"
    )


def default_model(models: Path | None = None) -> tuple[ModelChoice, list[str]]:
    """Choose a model as the service does; also return the names of the others.

    Raises:
        PipelineError: there is no model in `models`.

    """
    found = _find(models or shipped_models())
    name = "digits" if "digits" in found else next(iter(found))
    return ModelChoice("artefact", found[name]), [other for other in found if other != name]


def model_at(path: Path) -> ModelChoice | None:
    """Return the run, the artefact, or the newest version in a model's folder, at `path`."""
    if (path / CONFIG).is_file():
        return ModelChoice("run", path)
    newest = newest_version(path)
    return ModelChoice("artefact", newest) if (newest / MANIFEST_FILE).is_file() else None


def known_models(models: Path | None = None) -> str:
    """Name the models in `models`, by default the shipped ones, in a clause for messages."""
    found = ", ".join(_named_models(models))
    if models is not None:
        return f"{models} has {found}"
    return f"the shipped models are {found}" if found else "no models are shipped here"


def _named_models(models: Path | None) -> dict[str, Path]:
    root = models or shipped_models()
    # An installation may come without the shipped models.
    return {} if models is None and not root.is_dir() else _find(root)


def _find(root: Path) -> dict[str, Path]:
    try:
        return find_artifacts(root)
    except ArtifactError as error:
        raise PipelineError(str(error)) from error


def _absent(model: str, models: Path | None) -> str:
    path = Path(model)
    if path.is_file():
        return f"{model} is a file: name the folder of its run or of its artefact"
    if not path.is_dir():
        return (
            f"there is no model {model!r}: name a run folder, an artefact, or a model; "
            f"{known_models(models)}"
        )
    inside = [child for child in sorted(path.iterdir()) if model_at(child) is not None]
    if inside:
        listed = ", ".join(map(str, inside[:20])) + (", ..." if len(inside) > 20 else "")
        return f"{model} is a folder of models: choose one of {listed}"
    return f"{model} is neither a run nor an artefact; {known_models(models)}"
