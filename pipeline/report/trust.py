"""Trust in a network: maps, OOD detection, abstention, robustness, on the validation split."""

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from limelight.artifact.measurements import Abstention, Faithfulness, OutOfDistribution, Robustness
from models import ClassMapNetwork
from models.calibrator import Calibrator
from models.normalization import Normalisation
from models.serving_graph import find_layercam_stage
from pipeline.evaluation.abstention import choose_threshold, measure_abstention
from pipeline.evaluation.calibration import confidence_of
from pipeline.evaluation.graph_inference import TorchInference
from pipeline.evaluation.maps.faithfulness import images_to_explain, measure_faithfulness
from pipeline.evaluation.ood_datasets import ood_images
from pipeline.evaluation.ood_detection import choose_score, measure_detection, ood_count
from pipeline.evaluation.robustness import images_to_corrupt, measure_robustness
from pipeline.progress import Progress
from pipeline.runs.run_data import RunData
from pipeline.training.inference import look_inside


@dataclass(frozen=True, kw_only=True, slots=True)
class Trust:
    """Measurements of an export that need no test set, on the validation split."""

    faithfulness: Faithfulness
    ood_score: OutOfDistribution
    """Measured with the images that the score was chosen by."""
    abstention: Abstention
    """Measured on the images that its threshold was chosen by."""
    robustness: Robustness


def measure_trust(
    network: ClassMapNetwork,
    normalisation: Normalisation,
    device: torch.device,
    data: RunData,
    *,
    logits: Tensor,
    calibrator: Calibrator,
    multiplications: int,
    progress: Progress,
) -> Trust:
    """Measure a network on `device` whose validation `logits` are (N, K).

    `multiplications` are those of one image's forward pass; `progress` is told each step.
    """
    dataset, validation = data.dataset, data.validation
    progress("choosing the OOD score", 0, 0)
    choice = choose_score(
        partial(look_inside, network, normalisation=normalisation, device=device),
        data.fit.images,
        validation.images,
        ood_images(dataset.name, dataset.image, ood_count(len(validation)), held_out=False),
    )
    example = torch.from_numpy(validation.images[:2]).to(device)
    infer = TorchInference(
        network,
        normalisation,
        calibrator,
        device,
        ood_score=choice.ood_score,
        stage=find_layercam_stage(network, normalisation, example),
    )
    confidence, correct = confidence_of(logits, torch.from_numpy(validation.labels), calibrator)
    return Trust(
        faithfulness=measure_faithfulness(
            infer,
            network.head,
            validation,
            rule=dataset.image,
            # The other methods take as long as the rest of the report; an export measures them.
            methods=("cam", "layercam") if infer.has_layercam else ("cam",),
            images=images_to_explain(multiplications),
            progress=progress,
        ),
        ood_score=measure_detection(choice, choice.in_distribution, choice.ood),
        abstention=measure_abstention(*choose_threshold(confidence, correct), confidence, correct),
        robustness=measure_robustness(
            infer,
            validation,
            dataset.image,
            images=images_to_corrupt(multiplications),
            progress=progress,
        ),
    )
