"""Everything that a report is made of, worked out once."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import binomtest
from torch import Tensor, nn

from pipeline.data.class_balance import class_counts, imbalance_report
from pipeline.data.registry import Dataset
from pipeline.evaluation.calibration import fit_temperature
from pipeline.evaluation.classification_report import Assessment, assess
from pipeline.evaluation.layer_summary import summarise
from pipeline.evaluation.tta import evaluate_tta, tta_views
from pipeline.report.history import RunHistory, read_history
from pipeline.report.maps import ExplainedLoss, explain
from pipeline.report.trust import Trust, find_trust
from pipeline.runs.run import Run
from pipeline.training.device import choose_device
from pipeline.training.inference import evaluate


@dataclass(frozen=True, kw_only=True, slots=True)
class ManyViews:
    """What averaging over several views of an image comes to."""

    views: int
    accuracy: float
    log_loss: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Study:
    """A run, its data and what its network makes of the validation split."""

    run: Run
    dataset: Dataset
    history: RunHistory
    assessment: Assessment
    interval: tuple[float, float]
    """Of the accuracy, with 95 % confidence (Wilson, 1927)."""
    many_views: ManyViews | None
    explained: tuple[ExplainedLoss, ...]
    map_shape: tuple[int, int]
    """Rows and columns of a class activation map."""
    parameters: int
    multiplications: int
    """Of one image's forward pass, by convolutions and linear layers."""
    fitted_images: dict[str, int]
    """Images of each class that the weights were fitted to."""
    uneven: str | None
    trust: Trust


def study(run: Run, *, device: str = "auto", tta: bool = True) -> Study:
    """Assess a run on its validation split.

    Raises:
        RunError: the run's data has changed.
        PipelineError: there is no such device.

    """
    config, chosen = run.config, choose_device(device)
    dataset = config.load_data()
    fit, validation = config.split(dataset)
    network = run.network.to(chosen)
    logits = evaluate(network, validation.images, config.normalisation, chosen)
    labels = torch.from_numpy(validation.labels)
    temperature = fit_temperature(logits, labels)
    assessment = assess(logits, labels, config.classes, temperature)
    worst = np.array([top.index for top in assessment.top_losses], np.int64)
    many = _many_views(run, validation.images, labels, chosen, temperature) if tta else None
    explained, map_shape = explain(
        network, config.normalisation, chosen, validation.images[worst], assessment.top_losses
    )
    right = round(assessment.accuracy * assessment.images)
    interval = binomtest(right, assessment.images).proportion_ci(method="wilson")
    layers = summarise(network, validation.images.shape[3], *validation.images.shape[1:3])
    return Study(
        run=run,
        dataset=dataset,
        history=read_history(run.folder),
        assessment=assessment,
        interval=(float(interval.low), float(interval.high)),
        many_views=many,
        explained=explained,
        map_shape=map_shape,
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        multiplications=sum(layer.multiplications for layer in layers),
        fitted_images=class_counts(fit.labels, config.classes),
        uneven=imbalance_report(fit.labels, config.classes),
        trust=find_trust(
            network,
            config.normalisation,
            chosen,
            dataset,
            fit,
            validation,
            logits=logits,
            temperature=temperature,
        ),
    )


def _many_views(
    run: Run, images: NDArray[np.uint8], labels: Tensor, device: torch.device, temperature: float
) -> ManyViews:
    config = run.config
    choice = config.recipe.augmentation
    logits = evaluate_tta(
        run.network, images, config.normalisation, device, choice, temperature=temperature
    )
    return ManyViews(
        views=sum(1 for _ in tta_views(images[:1], choice)),
        accuracy=float((logits.argmax(1) == labels).double().mean()),
        log_loss=float(nn.functional.cross_entropy(logits, labels)),
    )
