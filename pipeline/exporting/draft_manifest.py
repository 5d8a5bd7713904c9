"""Draft of a manifest, before measurements: facts about the run, its data and its files."""

from collections.abc import Mapping
from datetime import UTC, datetime

import torch

from limelight.artifact.manifest import (
    SCHEMA_VERSION,
    Data,
    Manifest,
    ModelFile,
    Network,
    TensorSpec,
)
from limelight.artifact.measurements import Calibration, Metrics
from limelight.explanations.methods import supported
from models.serving_graph import ServingGraph
from pipeline.data.registry import DATASETS, Dataset
from pipeline.exporting.serialization import OPSET
from pipeline.runs.run import Run
from pipeline.runs.run_config import describe_training, library_versions
from pipeline.runs.run_data import RunData
from pipeline.training.inference import multiply_accumulates

# The field is required; the export replaces it before it writes the manifest.
_NOT_MEASURED_YET = Metrics(images=0, accuracy=0.0, log_loss=0.0, ece=0.0)


def draft_manifest(
    run: Run,
    data: RunData,
    graph: ServingGraph,
    example: torch.Tensor,
    *,
    name: str,
    version: str,
    files: Mapping[str, ModelFile],
    calibration: Calibration,
) -> Manifest:
    """Make the manifest of an export, without measurements.

    Args:
        run: the run that is exported.
        data: its data.
        graph: the exported graph with the most outputs.
        example: two images, uint8 (2, H, W, C).
        name: the model's name.
        version: its version.
        files: the files written, by name.
        calibration: the calibration, and how it was fitted.

    """
    dataset = data.dataset
    return Manifest(
        schema_version=SCHEMA_VERSION,
        name=name,
        version=version,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        description=_describe(dataset),
        classes=dataset.classes,
        image=dataset.image,
        inputs=(TensorSpec(name="images", dtype="uint8", shape=("N", *example.shape[1:])),),
        outputs=_output_specs(graph, example),
        cams="exact" if run.network.head.exact else "approximate",
        methods=supported(set(graph.outputs)),
        opset=OPSET,
        files=dict(files),
        network=_describe_network(run, example),
        training=describe_training(run.config) | {"best_epoch": run.best.as_json()},
        data=Data(
            name=dataset.name,
            sha256=run.config.data_sha256,
            licence=dataset.licence,
            source=dataset.source,
            train_images=len(data.fit),
            validation_images=len(data.validation),
            test_images=len(dataset.test),
        ),
        metrics=_NOT_MEASURED_YET,
        calibration=calibration,
        parity={},
        libraries=run.config.libraries
        | {f"export:{library}": version for library, version in library_versions().items()},
    )


def _output_specs(graph: ServingGraph, example: torch.Tensor) -> tuple[TensorSpec, ...]:
    with torch.inference_mode():
        shapes = [tuple(output.shape) for output in graph(example)]
    return tuple(
        TensorSpec(name=name, dtype="float32", shape=("N", *shape[1:]))
        for name, shape in zip(graph.outputs, shapes, strict=True)
    )


def _describe_network(run: Run, example: torch.Tensor) -> Network:
    return Network(
        architecture=run.config.recipe.network.architecture,
        parameters=sum(parameter.numel() for parameter in run.network.parameters()),
        multiply_accumulates=multiply_accumulates(
            run.network, run.config.normalisation, example[:1]
        ),
    )


def _describe(dataset: Dataset) -> str:
    entry = DATASETS.get(dataset.name)
    return (entry and entry.description) or f"Trained on {dataset.source}"
