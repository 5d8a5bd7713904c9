"""Measurements of an export: choices made on the validation split, figures of the test set."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from limelight.artifact.measurements import Calibration
from limelight.artifact.store import Artifact
from limelight.runtime.engine import Engine
from limelight.runtime.onnx_session import Precision
from models.calibrator import Calibrator
from models.serving_graph import ServingGraph
from pipeline.data.registry import Dataset, Split
from pipeline.data.served_images import as_served
from pipeline.data.stored_images import StoredImages
from pipeline.evaluation.abstention import choose_threshold, measure_abstention
from pipeline.evaluation.calibration import calibrate, check_calibration, confidence_of
from pipeline.evaluation.graph_inference import infer_output
from pipeline.evaluation.maps.faithfulness import (
    check_faithfulness,
    images_to_explain,
    measure_faithfulness,
)
from pipeline.evaluation.ood_datasets import ood_images
from pipeline.evaluation.ood_detection import (
    ChosenScore,
    choose_score,
    measure_detection,
    ood_count,
)
from pipeline.evaluation.robustness import images_to_corrupt, measure_robustness
from pipeline.evaluation.served_predictions import predict
from pipeline.exporting.formats import ONNX, compare_formats
from pipeline.progress import Progress
from pipeline.runs.run import Run
from pipeline.runs.run_data import RunData
from pipeline.training.inference import evaluate, look_inside

if TYPE_CHECKING:
    from pipeline.exporting.int8 import Quantized

_CPU = torch.device("cpu")


@dataclass(frozen=True, kw_only=True, slots=True)
class Choices:
    """Settings of the served model that the validation split decides."""

    calibration: Calibration
    threshold: float
    """Confidence below which the service flags a prediction."""
    error_limit: float
    """Share of errors that the threshold was chosen for."""
    ood: ChosenScore


def choose_on_validation(run: Run, data: RunData, progress: Progress) -> Choices:
    """Calibrate, and choose the abstention threshold and the OOD score."""
    network, normalisation = run.network, run.config.normalisation
    validation = data.validation
    progress(f"calibrating on {len(validation):,} validation images", 0, 0)
    logits = evaluate(network, validation.images, normalisation, _CPU)
    labels = torch.from_numpy(validation.labels)
    calibration = calibrate(logits, labels)
    confidence, correct = confidence_of(logits, labels, Calibrator.of(calibration))
    threshold, error_limit = choose_threshold(confidence, correct)
    progress("choosing the OOD score", 0, 0)
    ood = choose_score(
        partial(look_inside, network, normalisation=normalisation, device=_CPU),
        data.fit.images,
        validation.images,
        ood_images(
            data.dataset.name, data.dataset.image, ood_count(len(validation)), held_out=False
        ),
    )
    return Choices(calibration=calibration, threshold=threshold, error_limit=error_limit, ood=ood)


def measure(
    run: Run,
    data: RunData,
    choices: Choices,
    graphs: dict[str, ServingGraph],
    artifact: Artifact,
    engines: Mapping[Precision, Engine],
    progress: Progress,
    quantized: "Quantized | None" = None,
) -> dict[str, Any]:
    """Measure an artefact's files, and return the measured fields of its manifest.

    `engines` run its graphs, on the CPU. `quantized` says how the int8 graph was made, if there is
    one.

    Raises:
        GateError: a format does not agree with eager torch, the calibration raises the log loss,
            the int8 graph is less accurate, or the class activation maps say no more about what the
            network depends on than noise does.

    """
    manifest, dataset = artifact.manifest, data.dataset
    engine = engines["float32"]
    engine.warm_up()
    test = _served(dataset)
    parity = compare_formats(artifact, engine, graphs, test, progress)
    predictions = predict(engine, test)
    check_calibration(predictions.logits, predictions.labels, predictions.calibrator)
    metrics, int8 = predictions.metrics(), None
    if quantized is not None:
        from pipeline.exporting.int8 import check_int8, measure_int8

        progress("comparing int8 with float32", 0, 0)
        int8 = measure_int8(quantized, engines["int8"], engine, test)
        check_int8(int8, metrics)
    faithfulness = measure_faithfulness(
        engine.run,
        run.network.head,
        data.validation,
        rule=dataset.image,
        methods=manifest.methods,
        images=images_to_explain(manifest.network.multiply_accumulates),
        progress=progress,
    )
    check_faithfulness(ONNX, faithfulness)
    progress("measuring OOD detection", 0, 0)
    ood = ood_images(dataset.name, dataset.image, ood_count(len(test)), held_out=True)
    detection = measure_detection(
        choices.ood,
        predictions.ood_scores,
        {kind: infer_output(engine.run, images, "ood_score") for kind, images in ood},
    )
    robustness = measure_robustness(
        engine.run,
        test,
        dataset.image,
        images=images_to_corrupt(manifest.network.multiply_accumulates),
        progress=progress,
    )
    abstention = measure_abstention(
        choices.threshold, choices.error_limit, predictions.confidence, predictions.correct
    )
    return {
        "metrics": metrics,
        "int8": int8,
        "parity": parity,
        "faithfulness": faithfulness,
        "abstention": abstention,
        "out_of_distribution": detection,
        "robustness": robustness,
    }


def _served(dataset: Dataset) -> Split:
    """Return the test images as the service prepares uploads; a user's own files were read so."""
    test = dataset.test
    if isinstance(test.images, StoredImages):
        return test
    return Split(as_served(test.images, dataset.image), test.labels)
