"""From a run to an artefact: a new versioned folder that is verified before it appears."""

import hashlib
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, get_args

import onnx
import torch
from pydantic import TypeAdapter, ValidationError
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from pipeline.calibration import calibrate
from pipeline.checkpoint import write_tensors
from pipeline.datasets import Dataset, Split
from pipeline.errors import GateError, PipelineError
from pipeline.evaluation import as_served, evaluate_artifact
from pipeline.graph import ServingGraph
from pipeline.inference import evaluate
from pipeline.parity import OUTPUTS, Runtime, TorchRuntime, check_parity, measure_parity
from pipeline.runs import Run, describe_training, library_versions
from pipeline.weights import copied
from service.artifact import load_artifact
from service.engine import Engine
from service.manifest import (
    MANIFEST_FILE,
    Data,
    Manifest,
    Method,
    Metrics,
    ModelFile,
    Name,
    Network,
    TensorSpec,
)

OPSET = 20
ONNX, TORCHSCRIPT, PT2 = "model.onnx", "model.ts", "model.pt2"
WEIGHTS = "model.safetensors"
NAMES = {"mnist": "digits"}
DESCRIPTIONS = {
    "mnist": "Handwritten digits, trained on MNIST",
    "cifar10": "Ten kinds of animals and vehicles, trained on CIFAR-10",
    "digits8": "Handwritten digits of 8x8 pixels",
}
_NOT_YET_MEASURED = Metrics(images=0, accuracy=0.0, log_loss=0.0, ece=0.0)


def export(run: Run, root: Path, *, name: str | None = None) -> Path:
    """Export a run as the next version of `root`/NAME and return that folder.

    The folder is written beside its place and renamed into it after every gate has passed; a
    failed export leaves nothing behind.

    Raises:
        GateError: a format does not agree with eager torch, or the ONNX checker refuses.
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
        _write(staging, run, dataset, validation, name=name, version=version)
        return staging.rename(home / version)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        if not any(home.iterdir()):
            home.rmdir()


def _write(
    folder: Path, run: Run, dataset: Dataset, validation: Split, *, name: str, version: str
) -> None:
    cpu = torch.device("cpu")
    normalisation = run.config.normalisation
    logits = evaluate(run.network, validation.images, normalisation, cpu)
    calibration = calibrate(logits, torch.from_numpy(validation.labels))
    graph = ServingGraph(run.network, normalisation, calibration.temperature).eval()
    example = torch.from_numpy(dataset.test.images[:2])
    _save_onnx(graph, example, folder / ONNX)
    _save_torchscript(graph, example, folder / TORCHSCRIPT)
    _save_pt2(graph, example, folder / PT2)
    # What `limelight finetune` begins from: the only format that holds layers by their names.
    write_tensors(folder / WEIGHTS, copied(run.network.state_dict()))
    with torch.inference_mode():
        shapes = [tuple(output.shape) for output in graph(example)]
    draft = Manifest(
        schema_version=1,
        name=name,
        version=version,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        description=DESCRIPTIONS.get(dataset.name, f"Trained on {dataset.source}"),
        classes=dataset.classes,
        image=dataset.image,
        inputs=(TensorSpec(name="images", dtype="uint8", shape=("N", *example.shape[1:])),),
        outputs=tuple(
            TensorSpec(name=output, dtype="float32", shape=("N", *shape[1:]))
            for output, shape in zip(OUTPUTS, shapes, strict=True)
        ),
        methods=get_args(Method),
        cams="exact" if run.network.head.exact else "approximate",
        opset=OPSET,
        files={
            ONNX: _describe(folder / ONNX, "onnx"),
            TORCHSCRIPT: _describe(folder / TORCHSCRIPT, "torchscript"),
            PT2: _describe(folder / PT2, "torch.export"),
            WEIGHTS: _describe(folder / WEIGHTS, "safetensors"),
        },
        network=_measure_network(run, example),
        training=describe_training(run.config) | {"best_epoch": run.best.as_json()},
        data=Data(
            name=dataset.name,
            sha256=run.config.data_sha256,
            licence=dataset.licence,
            source=dataset.source,
            train_images=len(dataset.train) - len(validation),
            validation_images=len(validation),
            test_images=len(dataset.test),
        ),
        metrics=_NOT_YET_MEASURED,
        calibration=calibration,
        parity={},
        libraries=run.config.libraries | {f"export:{k}": v for k, v in library_versions().items()},
    )
    _write_manifest(folder, draft)
    engine = Engine(load_artifact(folder, in_place=False), device="cpu", threads=0)
    engine.warm_up()
    runtimes: dict[str, Runtime] = {
        ONNX: lambda images: engine.run(images, OUTPUTS),
        TORCHSCRIPT: TorchRuntime(_load_torchscript(folder / TORCHSCRIPT)),
        PT2: TorchRuntime(torch.export.load(folder / PT2).module()),
    }
    test = Split(as_served(dataset.test.images, dataset.image), dataset.test.labels)
    parity = {
        file: measure_parity(runtime, graph, test.images) for file, runtime in runtimes.items()
    }
    for file, measured in parity.items():
        check_parity(file, measured)
    metrics = evaluate_artifact(engine, test)
    _write_manifest(folder, draft.model_copy(update={"metrics": metrics, "parity": parity}))
    load_artifact(folder, in_place=False)


def _write_manifest(folder: Path, manifest: Manifest) -> None:
    (folder / MANIFEST_FILE).write_text(manifest.model_dump_json(indent=2) + "\n")


def _save_onnx(graph: ServingGraph, example: torch.Tensor, file: Path) -> None:
    program = torch.onnx.export(
        graph,
        (example,),
        dynamo=True,
        input_names=["images"],
        output_names=list(OUTPUTS),
        dynamic_shapes={"images": {0: torch.export.Dim("N")}},
        opset_version=OPSET,
        verbose=False,
    )
    if program is None:
        raise GateError("torch.onnx gave no program")
    program.save(file, external_data=False)
    try:
        onnx.checker.check_model(onnx.load(file), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise GateError(f"{file.name}: the ONNX checker refuses it: {error}") from error


@contextmanager
def _deprecated_torchscript() -> Iterator[None]:
    """TorchScript is deprecated in favour of torch.export, which stands beside it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


def _save_torchscript(graph: ServingGraph, example: torch.Tensor, file: Path) -> None:
    with _deprecated_torchscript(), torch.inference_mode():
        traced = torch.jit.trace(graph, (example,))  # type: ignore[no-untyped-call]
        torch.jit.save(traced, str(file))


def _load_torchscript(file: Path) -> nn.Module:
    with _deprecated_torchscript():
        return torch.jit.load(str(file))  # type: ignore[no-any-return, no-untyped-call]


def _save_pt2(graph: ServingGraph, example: torch.Tensor, file: Path) -> None:
    program = torch.export.export(
        graph, (example,), dynamic_shapes={"images": {0: torch.export.Dim("N")}}
    )
    torch.export.save(program, file)


def _describe(
    file: Path, form: Literal["onnx", "torchscript", "torch.export", "safetensors"]
) -> ModelFile:
    content = file.read_bytes()
    return ModelFile(sha256=hashlib.sha256(content).hexdigest(), bytes=len(content), format=form)


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
