"""From a run to an artefact: a new versioned folder that is verified before it appears."""

import shutil
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError

from limelight.artifact.manifest import (
    MANIFEST_FILE,
    SCHEMA_VERSION,
    Data,
    Manifest,
    Metrics,
    Name,
    Network,
    TensorSpec,
)
from limelight.artifact.store import load_artifact
from limelight.explanations.methods import supported
from limelight.runtime.engine import Engine
from models.serving_graph import ServingGraph
from pipeline.data.registry import Dataset, Split
from pipeline.errors import PipelineError
from pipeline.evaluation.abstention import choose_threshold, measure_abstention
from pipeline.evaluation.calibration import calibrate, confidence_of
from pipeline.evaluation.faithfulness import check_faithfulness, how_many, measure_faithfulness
from pipeline.evaluation.ood_detection import choose_score, measure_detection
from pipeline.evaluation.saliency import look_at
from pipeline.evaluation.test_set import answer, as_served
from pipeline.export.formats import LAYERCAM_ONNX, ONNX, compare_formats, make_graphs, save_formats
from pipeline.export.model_card import card
from pipeline.export.serialization import OPSET
from pipeline.runs.run import Run, describe_training, library_versions
from pipeline.training.inference import evaluate, look_inside, multiply_accumulates

CARD = "README.md"
NAMES = {"mnist": "digits"}
DESCRIPTIONS = {
    "mnist": "Handwritten digits, trained on MNIST",
    "cifar10": "Ten kinds of animals and vehicles, trained on CIFAR-10",
    "digits8": "Handwritten digits of 8x8 pixels",
}
_CPU = torch.device("cpu")
_NOT_YET_MEASURED = Metrics(images=0, accuracy=0.0, log_loss=0.0, ece=0.0)


def export(
    run: Run,
    root: Path,
    *,
    name: str | None = None,
    layercam: bool = True,
    fp16: bool = False,
    tell: Callable[[str], None] = lambda _: None,
) -> Path:
    """Export a run as the next version of `root`/NAME and return that folder.

    With `layercam` LayerCAM comes too, of networks that can give it. ONNX Runtime computes all
    of a graph in every pass, whatever is asked for, and the derivatives take ten times as long as
    the rest: a graph of its own has them. With `fp16` comes one whose layers compute in float16,
    which the service runs on a GPU. What takes long is said to `tell` as it begins.

    The folder is written beside its place and renamed into it after every gate has passed; a
    failed export leaves nothing behind.

    Raises:
        GateError: a format does not agree with eager torch, the ONNX checker refuses, or the
            maps say no more of what the network depends on than noise does.
        PipelineError: the run's data is gone or has changed, or `name` is no model's name.

    """
    if name is not None:
        _check_name(name)
    dataset, validation = run.load_data()
    name = name or NAMES.get(dataset.name) or _slug(dataset.name)
    home = root / name
    home.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=".staging-", dir=home))
    try:
        staging.chmod(0o755)
        version = str(_newest_version(home) + 1)
        _write(
            *(staging, run, dataset, validation, tell),
            layercam=layercam,
            fp16=fp16,
            name=name,
            version=version,
        )
        return staging.rename(home / version)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        if not any(home.iterdir()):
            home.rmdir()


def _write(
    folder: Path,
    run: Run,
    dataset: Dataset,
    validation: Split,
    tell: Callable[[str], None],
    *,
    layercam: bool,
    fp16: bool,
    name: str,
    version: str,
) -> None:
    tell(f"calibrating on {len(validation):,} validation images")
    logits = evaluate(run.network, validation.images, run.config.normalisation, _CPU)
    labels = torch.from_numpy(validation.labels)
    calibration = calibrate(logits, labels)
    confidence, right = confidence_of(logits, labels, calibration.temperature)
    threshold, error_limit = choose_threshold(confidence, right)
    tell("choosing how strange images are told from ordinary ones")
    choice = choose_score(
        partial(look_inside, run.network, normalisation=run.config.normalisation, device=_CPU),
        run.config.split(dataset)[0].images,
        validation.images,
        dataset=dataset.name,
        rule=dataset.image,
    )
    example = torch.from_numpy(dataset.test.images[:2])
    graphs = make_graphs(
        *(run, calibration.temperature, choice.ood_score, example),
        layercam=layercam,
        fp16=fp16,
    )
    files = save_formats(folder, graphs, example)
    draft = Manifest(
        name=name,
        version=version,
        files=files,
        calibration=calibration,
        **_facts(run, dataset, validation, graphs.get(LAYERCAM_ONNX, graphs[ONNX]), example),
    )
    _write_manifest(folder, draft)
    artifact = load_artifact(folder, in_place=False)
    engine = Engine(artifact, device="cpu", threads=0)
    engine.warm_up()
    test = Split(as_served(dataset.test.images, dataset.image), dataset.test.labels)
    tell(f"comparing each format with eager torch on {len(test):,} test images")
    parity = compare_formats(artifact, engine, graphs, test)
    answers = answer(engine, test)
    tell(f"measuring the maps of {', '.join(draft.methods)}")
    faithfulness = measure_faithfulness(
        engine.run,
        run.network.head,
        validation,
        rule=dataset.image,
        methods=draft.methods,
        images=how_many(draft.network.multiply_accumulates),
    )
    check_faithfulness(ONNX, faithfulness)
    tell("measuring how well strange images are told")
    measured = {
        "metrics": answers.metrics(),
        "parity": parity,
        "faithfulness": faithfulness,
        "abstention": measure_abstention(threshold, error_limit, answers.confidence, answers.right),
        "out_of_distribution": measure_detection(
            partial(look_at, engine.run, output="ood_score"),
            answers.ood_scores,
            choice,
            dataset=dataset.name,
            rule=dataset.image,
            held_out=True,
        ),
    }
    manifest = draft.model_copy(update=measured)
    _write_manifest(folder, manifest)
    (folder / CARD).write_text(card(manifest), encoding="utf-8")
    load_artifact(folder, in_place=False)


def _facts(
    run: Run, dataset: Dataset, validation: Split, graph: ServingGraph, example: torch.Tensor
) -> dict[str, Any]:
    """The manifest's fields that are known before anything is measured."""
    with torch.inference_mode():
        shapes = [tuple(output.shape) for output in graph(example)]
    outputs = tuple(
        TensorSpec(name=output, dtype="float32", shape=("N", *shape[1:]))
        for output, shape in zip(graph.outputs, shapes, strict=True)
    )
    return {
        "schema_version": SCHEMA_VERSION,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "description": DESCRIPTIONS.get(dataset.name, f"Trained on {dataset.source}"),
        "classes": dataset.classes,
        "image": dataset.image,
        "inputs": (TensorSpec(name="images", dtype="uint8", shape=("N", *example.shape[1:])),),
        "outputs": outputs,
        "methods": supported(set(graph.outputs)),
        "cams": "exact" if run.network.head.exact else "approximate",
        "opset": OPSET,
        "network": _measure_network(run, example),
        "training": describe_training(run.config) | {"best_epoch": run.best.as_json()},
        "data": Data(
            name=dataset.name,
            sha256=run.config.data_sha256,
            licence=dataset.licence,
            source=dataset.source,
            train_images=len(dataset.train) - len(validation),
            validation_images=len(validation),
            test_images=len(dataset.test),
        ),
        "metrics": _NOT_YET_MEASURED,
        "parity": {},
        "libraries": run.config.libraries
        | {f"export:{k}": v for k, v in library_versions().items()},
    }


def _write_manifest(folder: Path, manifest: Manifest) -> None:
    (folder / MANIFEST_FILE).write_text(manifest.model_dump_json(indent=2) + "\n")


def _measure_network(run: Run, example: torch.Tensor) -> Network:
    return Network(
        architecture=run.config.recipe.network.architecture,
        parameters=sum(parameter.numel() for parameter in run.network.parameters()),
        multiply_accumulates=multiply_accumulates(
            run.network, run.config.normalisation, example[:1]
        ),
    )


def _newest_version(home: Path) -> int:
    versions = (path.name for path in home.iterdir() if path.name.isdecimal())
    return max(map(int, versions), default=0)


def _check_name(name: str) -> None:
    try:
        TypeAdapter(Name).validate_python(name)
    except ValidationError as error:
        raise PipelineError(
            f"--name {name!r}: a model's name is lower-case letters, digits, '-' and '_', "
            "begins with a letter or digit and has at most 63 of them"
        ) from error


def _slug(name: str) -> str:
    slug = "".join(char if char.isascii() and char.isalnum() else "-" for char in name.lower())
    slug = slug.strip("-")[:63]
    if not slug:
        raise PipelineError(f"{name!r} gives no name for the model; pass --name")
    return slug
