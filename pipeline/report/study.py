"""Measurements of a report: the run, its data, and its network on the validation split."""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import binomtest
from torch import nn

from models.calibrator import Calibrator
from pipeline.data.class_balance import class_counts, imbalance_report
from pipeline.data.registry import Dataset, Split
from pipeline.evaluation.calibration import calibrate_and_apply
from pipeline.evaluation.classification_report import (
    ClassificationReport,
    make_classification_report,
)
from pipeline.evaluation.layers.layer_summary import summarise
from pipeline.evaluation.tta import evaluate_tta, tta_views
from pipeline.progress import Progress, silent
from pipeline.report.history import RunHistory, read_history
from pipeline.report.maps import ExplainedLoss, explain
from pipeline.report.trust import Trust, measure_trust
from pipeline.runs.run import Run
from pipeline.training.device import choose_device
from pipeline.training.inference import evaluate


@dataclass(frozen=True, kw_only=True, slots=True)
class TtaResult:
    """Accuracy and log loss with test-time augmentation (TTA)."""

    views: int
    accuracy: float
    log_loss: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Study:
    """A run, its data, and the measurements of its network on the validation split."""

    run: Run
    dataset: Dataset
    history: RunHistory
    classification: ClassificationReport
    interval: tuple[float, float]
    """95 % confidence interval of the accuracy (Wilson, 1927)."""
    tta: TtaResult | None
    explained: tuple[ExplainedLoss, ...]
    map_shape: tuple[int, int]
    """Rows and columns of a class activation map."""
    parameters: int
    multiplications: int
    """Multiplications of convolutions and linear layers in one image's forward pass."""
    fitted_images: dict[str, int]
    """Number of training images of each class, without the validation split."""
    imbalance: str | None
    """Warning about unequal class sizes."""
    trust: Trust


def study(
    run: Run, *, device: str = "auto", tta: bool = True, progress: Progress = silent
) -> Study:
    """Measure a run on its validation split; `progress` is told each step.

    Raises:
        RunError: the run's data has changed.
        PipelineError: the device does not exist.

    """
    config, chosen = run.config, choose_device(device)
    data = run.data
    validation = data.validation
    progress(f"evaluating on {len(validation):,} validation images", 0, 0)
    network = run.network.to(chosen)
    logits = evaluate(network, validation.images, config.normalisation, chosen)
    labels = torch.from_numpy(validation.labels)
    calibration, calibrated = calibrate_and_apply(logits, labels)
    calibrator = Calibrator.of(calibration)
    classification = make_classification_report(
        logits, labels, config.classes, calibrator, calibrated_nk=calibrated
    )
    worst = np.array([top.index for top in classification.top_losses], np.int64)
    explained, map_shape = explain(
        network,
        config.normalisation,
        chosen,
        validation.images[worst],
        classification.top_losses,
        validation.files,
    )
    correct = round(classification.accuracy * classification.images)
    interval = binomtest(correct, classification.images).proportion_ci(method="wilson")
    layers = summarise(network, validation.images.shape[3], *validation.images.shape[1:3])
    multiplications = sum(layer.multiplications for layer in layers)
    if tta:
        progress("evaluating with test-time augmentation", 0, 0)
    return Study(
        run=run,
        dataset=data.dataset,
        history=read_history(run.folder),
        classification=classification,
        interval=(float(interval.low), float(interval.high)),
        tta=_measure_tta(run, validation, chosen, calibrator) if tta else None,
        explained=explained,
        map_shape=map_shape,
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        multiplications=multiplications,
        fitted_images=class_counts(data.fit.labels, config.classes),
        imbalance=imbalance_report(data.fit.labels, config.classes),
        trust=measure_trust(
            network,
            config.normalisation,
            chosen,
            data,
            logits=logits,
            calibrator=calibrator,
            multiplications=multiplications,
            progress=progress,
        ),
    )


def _measure_tta(
    run: Run, validation: Split, device: torch.device, calibrator: Calibrator
) -> TtaResult:
    config = run.config
    augmentation = config.recipe.augmentation
    images, labels = validation.images, torch.from_numpy(validation.labels)
    logits = evaluate_tta(
        run.network, images, config.normalisation, device, augmentation, calibrator=calibrator
    )
    return TtaResult(
        views=sum(1 for _ in tta_views(images[:1], augmentation)),
        accuracy=float((logits.argmax(1) == labels).double().mean()),
        log_loss=float(nn.functional.cross_entropy(logits, labels)),
    )
