"""Answers for the commands `predict` and `explain`: from a service, or from a model here."""

import glob
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import typer
from rich.markup import escape

from limelight.artifact.store import ArtifactError
from limelight.client import Client, RefusedError
from limelight.errors import LimelightError
from limelight.results import Explanation, Prediction, flags_of
from pipeline.cli.model_choice import choose_model, default_model
from pipeline.console import console, next_command, say
from pipeline.errors import PipelineError

if TYPE_CHECKING:
    from limelight.classifier import LocalClassifier

Files = Annotated[list[str], typer.Argument(help="images, or patterns such as 'photos/*.jpg'")]
Url = Annotated[str | None, typer.Option(help="of a service; without it, the models run here")]
Models = Annotated[
    Path | None, typer.Option(help="folder of artefacts, where they run here; default: the zoo")
]
Model = Annotated[
    str | None,
    typer.Option(help="a run, an artefact, or a model's name; default: that of the service"),
]
ApiKey = Annotated[
    str | None,
    typer.Option(
        envvar="LIMELIGHT_API_KEY",
        help="of the service; as a variable, other users of this machine cannot see it",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="a line of JSON for each file")]


Failures = list[tuple[Path, Exception]]


def matching(patterns: Iterable[str]) -> tuple[list[Path], Failures]:
    """The files that names and patterns mean, each once, in their order; and what means none.

    A shell writes the folders among them, too, for `photos/*`.

    Raises:
        PipelineError: none means a file.

    """
    found: dict[Path, None] = {}
    failures: Failures = []
    for pattern in patterns:
        # A name that exists is no pattern, whatever characters it has.
        names = [pattern] if Path(pattern).exists() else sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207  # patterns may be absolute
        files = [Path(name) for name in names if Path(name).is_file()]
        found.update(dict.fromkeys(files))
        if Path(pattern).is_dir():
            inside = next_command(Path(pattern)).rstrip("/")
            problem = f"this is a folder: say {inside}/*, or limelight score"
            failures.append((Path(pattern), PipelineError(problem)))
        elif not files:
            failures.append((Path(pattern), PipelineError("there is no such file")))
    if not found:
        raise PipelineError("{}: {}".format(*failures[0]))
    return list(found), failures


class Answerer(Protocol):
    """Answers for files: a service, or a model in this process."""

    def predict_many(self, files: Sequence[Path]) -> Iterator[Prediction | Exception]:
        """Predictions in the order of `files`; a file that cannot be answered gives its error."""

    def explain(self, file: Path, **options: str | None) -> Explanation:
        """An explanation of one file.

        Raises:
            ClientError, LimelightError, OSError: it cannot be answered.

        """


@contextmanager
def answering(
    url: str | None,
    models: Path | None,
    model: str | None,
    *,
    api_key: str | None = None,
    concurrency: int = 8,
) -> Iterator[Answerer]:
    """Ask the service at `url`, or load the model here.

    Raises:
        PipelineError: the model cannot be loaded.

    """
    if url is None:
        yield _Here(_load(models, model))
        return
    if models is not None:
        raise PipelineError("--models is for models that run here: leave out it or --url")
    with Client(url, api_key=api_key) as client:
        yield _There(client, model, concurrency)


class _Here:
    def __init__(self, classifier: "LocalClassifier") -> None:
        self._classifier = classifier

    def predict_many(self, files: Sequence[Path]) -> Iterator[Prediction | Exception]:
        for file in files:
            try:
                yield self._classifier.predict(file)
            except (LimelightError, OSError) as error:
                yield error

    def explain(self, file: Path, **options: str | None) -> Explanation:
        return self._classifier.explain(file, top_k=None, **options)


class _There:
    def __init__(self, client: Client, model: str | None, concurrency: int) -> None:
        self._client, self._model, self._concurrency = client, model, concurrency

    def predict_many(self, files: Sequence[Path]) -> Iterator[Prediction | Exception]:
        return self._client.predict_many(files, model=self._model, concurrency=self._concurrency)

    def explain(self, file: Path, **options: str | None) -> Explanation:
        return self._client.explain(file, model=self._model, **options)


def _load(models: Path | None, model: str | None) -> "LocalClassifier":
    if model is None:
        choice, others = default_model(models)
        if others:
            name = choice.folder.parent.name
            say(f"by the model {name}; there is also {', '.join(others)}: choose with --model")
    else:
        choice = choose_model(model, models)
    if choice.kind == "run":
        return _load_run(choice.folder)
    # ONNX Runtime is imported when a model runs here: a service needs none.
    from limelight.classifier import load
    from limelight.runtime.onnx_session import EngineError

    try:
        # A GPU takes longer to start than a CPU to answer for a few files.
        return load(choice.folder, device="cpu")
    except (ArtifactError, EngineError) as error:
        raise PipelineError(str(error)) from error


def _load_run(folder: Path) -> "LocalClassifier":
    try:
        from pipeline.runs.run import read_run
        from pipeline.runs.run_classifier import classifier_of
    except ModuleNotFoundError as error:
        raise PipelineError(
            f"{folder} is a run, and running it needs {error.name}, which is not installed: pip "
            f"install 'limelight[train]', or export the run and name the artefact"
        ) from error
    classifier = classifier_of(read_run(folder))
    say(
        f"{folder} is a run, so the confidences are not calibrated and no answer is flagged as "
        f"doubtful; {next_command('limelight', 'export', folder)} adds both, and checks the maps"
    )
    return classifier


def doubts(answer: Prediction) -> str:
    """Return why not to rely on an answer, in a few words; empty if there is no reason."""
    return ", ".join(flag.replace("_", " ") for flag in flags_of(answer))


def as_line(file: Path, answer: Prediction | Exception) -> str:
    """JSON of an answer, or of an error, with the file's name before it."""
    content: dict[str, Any] = {"file": str(file)}
    if isinstance(answer, RefusedError | LimelightError):
        content["error"] = {"code": answer.code, "detail": answer.detail}
    elif isinstance(answer, Exception):
        content["error"] = {"code": "no_answer", "detail": str(answer)}
    else:
        content |= answer.to_dict()
    return json.dumps(content, ensure_ascii=False)


def finish(failures: Failures) -> None:
    """Say which files failed, and end with exit status 1 if any did."""
    for file, error in failures:
        console.print(
            f"[bold red]error:[/] {escape(f'{file}: {error}')}",
            highlight=False,
            soft_wrap=True,
            markup=True,
        )
    if failures:
        sys.exit(1)
