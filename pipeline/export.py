"""From a run to an artefact: a new versioned folder that is verified before it appears."""

import shutil
import tempfile
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, get_args

import torch
from pydantic import TypeAdapter, ValidationError
from torch.utils.flop_counter import FlopCounterMode

from pipeline.abstention import choose_threshold, measure_abstention
from pipeline.calibration import calibrate, confidence_of
from pipeline.card import card
from pipeline.checkpoint import write_tensors
from pipeline.datasets import Dataset, Split
from pipeline.errors import PipelineError
from pipeline.evaluation import answer, as_served
from pipeline.explaining import look_at
from pipeline.faithfulness import check_faithfulness, measure_faithfulness
from pipeline.graph import ServingGraph, find_finer_stage
from pipeline.inference import evaluate, look_inside
from pipeline.out_of_distribution import choose_score, measure_detection
from pipeline.parity import EXACT, HALF, Runtime, TorchRuntime, check_parity, measure_parity
from pipeline.runs import Run, describe_training, library_versions
from pipeline.saving import OPSET, describe, load_torchscript, save_onnx, save_torchscript, trace
from pipeline.strangeness import Strangeness
from pipeline.weights import copied
from service.artifact import Artifact, load_artifact
from service.engine import Engine
from service.manifest import (
    MANIFEST_FILE,
    OUTPUT_OF_METHOD,
    SCHEMA_VERSION,
    Data,
    FileFormat,
    Manifest,
    Method,
    Metrics,
    ModelFile,
    Name,
    Network,
    Parity,
    TensorSpec,
)

ONNX, TORCHSCRIPT, PT2 = "model.onnx", "model.ts", "model.pt2"
FINER_ONNX, HALF_ONNX = "model.finer.onnx", "model.half.onnx"
WEIGHTS, CARD = "model.safetensors", "README.md"
_FORMATS: dict[str, FileFormat] = {
    ONNX: "onnx",
    FINER_ONNX: "onnx-finer",
    HALF_ONNX: "onnx-half",
}
NAMES = {"mnist": "digits"}
DESCRIPTIONS = {
    "mnist": "Handwritten digits, trained on MNIST",
    "cifar10": "Ten kinds of animals and vehicles, trained on CIFAR-10",
    "digits8": "Handwritten digits of 8x8 pixels",
}
_CPU = torch.device("cpu")
# Whose passes take ten times as long: of these all are compared at every batch size.
_FINER_IMAGES = 100
_NOT_YET_MEASURED = Metrics(images=0, accuracy=0.0, log_loss=0.0, ece=0.0)


def export(
    run: Run, root: Path, *, name: str | None = None, finer_maps: bool = True, half: bool = False
) -> Path:
    """Export a run as the next version of `root`/NAME and return that folder.

    With `finer_maps` LayerCAM comes too, of networks that can give it. ONNX Runtime computes all
    of a graph in every pass, whatever is asked for, and the derivatives take ten times as long as
    the rest: a graph of its own has them. With `half` comes one whose layers compute in float16,
    which the service runs on a GPU.

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
        named = {"name": name, "version": version}
        _write(staging, run, dataset, validation, finer_maps=finer_maps, half=half, **named)
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
    *,
    finer_maps: bool,
    half: bool,
    name: str,
    version: str,
) -> None:
    logits = evaluate(run.network, validation.images, run.config.normalisation, _CPU)
    labels = torch.from_numpy(validation.labels)
    calibration = calibrate(logits, labels)
    confidence, right = confidence_of(logits, labels, calibration.temperature)
    threshold, error_limit = choose_threshold(confidence, right)
    choice = choose_score(
        partial(look_inside, run.network, normalisation=run.config.normalisation, device=_CPU),
        run.config.split(dataset)[0].images,
        validation.images,
        dataset=dataset.name,
        rule=dataset.image,
    )
    example = torch.from_numpy(dataset.test.images[:2])
    graphs = _graphs(
        *(run, calibration.temperature, choice.strangeness, example),
        finer_maps=finer_maps,
        half=half,
    )
    files = _save(folder, graphs, example)
    draft = Manifest(
        name=name,
        version=version,
        files=files,
        calibration=calibration,
        **_facts(run, dataset, validation, graphs.get(FINER_ONNX, graphs[ONNX]), example),
    )
    _write_manifest(folder, draft)
    artifact = load_artifact(folder, in_place=False)
    engine = Engine(artifact, device="cpu", threads=0)
    engine.warm_up()
    test = Split(as_served(dataset.test.images, dataset.image), dataset.test.labels)
    parity = _pass_gates(artifact, engine, graphs, test)
    answers = answer(engine, test)
    faithfulness = measure_faithfulness(
        engine.run,
        run.network.head,
        validation,
        rule=dataset.image,
        methods=draft.methods,
    )
    check_faithfulness(ONNX, faithfulness)
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


def _graphs(
    run: Run,
    temperature: float,
    strangeness: Strangeness,
    example: torch.Tensor,
    *,
    finer_maps: bool,
    half: bool,
) -> dict[str, ServingGraph]:
    """Those that are wanted, by the ONNX file of each."""
    network, normalisation = run.network, run.config.normalisation
    early = find_finer_stage(network, normalisation, example) if finer_maps else None
    graph = partial(ServingGraph, network, normalisation, temperature, strangeness=strangeness)
    graphs = {ONNX: graph()}
    if early is not None:
        graphs[FINER_ONNX] = graph(early=early)
    if half:
        graphs[HALF_ONNX] = graph(half=True)
    return {file: each.eval() for file, each in graphs.items()}


def _save(
    folder: Path, graphs: dict[str, ServingGraph], example: torch.Tensor
) -> dict[str, ModelFile]:
    graph = graphs[ONNX]
    save_torchscript(graph, example, folder / TORCHSCRIPT)
    traced = {file: trace(each, example) for file, each in graphs.items()}
    torch.export.save(traced[ONNX], folder / PT2)
    # What `limelight finetune` begins from: the only format that holds layers by their names.
    write_tensors(folder / WEIGHTS, copied(graph.network.state_dict()))
    files = {}
    for file, each in graphs.items():
        save_onnx(traced[file], each.outputs, folder / file)
        files[file] = describe(folder / file, _FORMATS[file])
    return files | {
        TORCHSCRIPT: describe(folder / TORCHSCRIPT, "torchscript"),
        PT2: describe(folder / PT2, "torch.export"),
        WEIGHTS: describe(folder / WEIGHTS, "safetensors"),
    }


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
        "methods": tuple(
            method
            for method in get_args(Method)
            if OUTPUT_OF_METHOD.get(method, "cams") in graph.outputs
        ),
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


def _pass_gates(
    artifact: Artifact, engine: Engine, graphs: dict[str, ServingGraph], test: Split
) -> dict[str, Parity]:
    folder, graph = artifact.folder, graphs[ONNX]
    runtimes: dict[str, tuple[Runtime, ServingGraph]] = {
        ONNX: (partial(engine.run, outputs=graph.outputs), graph),
        TORCHSCRIPT: (TorchRuntime(load_torchscript(folder / TORCHSCRIPT), graph.outputs), graph),
        PT2: (TorchRuntime(torch.export.load(folder / PT2).module(), graph.outputs), graph),
    }
    finer = graphs.get(FINER_ONNX)
    if finer is not None:
        runtimes[FINER_ONNX] = partial(engine.run, outputs=finer.outputs), finer
    if HALF_ONNX in graphs:
        in_half = Engine(artifact, device="cpu", threads=0, precision="float16")
        runtimes[HALF_ONNX] = partial(in_half.run, outputs=graph.outputs), graph
    parity = {
        file: measure_parity(
            runtime, asked, test.images if asked is graph else test.images[:_FINER_IMAGES]
        )
        for file, (runtime, asked) in runtimes.items()
    }
    for file, measured in parity.items():
        check_parity(file, measured, HALF if file == HALF_ONNX else EXACT)
    return parity


def _write_manifest(folder: Path, manifest: Manifest) -> None:
    (folder / MANIFEST_FILE).write_text(manifest.model_dump_json(indent=2) + "\n")


def _measure_network(run: Run, example: torch.Tensor) -> Network:
    image = run.config.normalisation.on(example.device)(example[:1])
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        run.network(image)
    return Network(
        architecture=run.config.recipe.network.architecture,
        parameters=sum(parameter.numel() for parameter in run.network.parameters()),
        multiply_accumulates=counter.get_total_flops() // 2,
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
