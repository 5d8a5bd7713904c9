"""How far a network's answers and maps can be relied on, by its validation split alone."""

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from limelight.artifact.manifest import Abstention, Faithfulness, OutOfDistribution
from models import ClassMapNetwork
from models.normalization import Normalisation
from models.serving_graph import find_layercam_stage
from pipeline.data.registry import Dataset, Split
from pipeline.evaluation.abstention import choose_threshold, measure_abstention
from pipeline.evaluation.calibration import confidence_of
from pipeline.evaluation.faithfulness import how_many, measure_faithfulness
from pipeline.evaluation.ood_detection import choose_score, measure_detection
from pipeline.evaluation.saliency import TorchLook, look_at
from pipeline.training.inference import look_inside, multiply_accumulates


@dataclass(frozen=True, kw_only=True, slots=True)
class Trust:
    """What an export measures on the test set, as far as it is known before."""

    faithfulness: Faithfulness
    ood_score: OutOfDistribution
    """Between validation images and the strange ones that the score was chosen by."""
    abstention: Abstention
    """On the images that its threshold was chosen by."""


def find_trust(
    network: ClassMapNetwork,
    normalisation: Normalisation,
    device: torch.device,
    dataset: Dataset,
    fit: Split,
    validation: Split,
    *,
    logits: Tensor,
    temperature: float,
) -> Trust:
    """Measure on the validation split, whose `logits` (N, K) the network on `device` gave."""
    choice = choose_score(
        partial(look_inside, network, normalisation=normalisation, device=device),
        fit.images,
        validation.images,
        dataset=dataset.name,
        rule=dataset.image,
    )
    two = torch.from_numpy(validation.images[:2]).to(device)
    look = TorchLook(
        network,
        normalisation,
        temperature,
        device,
        ood_score=choice.ood_score,
        early=find_layercam_stage(network, normalisation, two),
    )
    score = partial(look_at, look, output="ood_score")
    confidence, right = confidence_of(logits, torch.from_numpy(validation.labels), temperature)
    return Trust(
        faithfulness=measure_faithfulness(
            look,
            network.head,
            validation,
            rule=dataset.image,
            # The others take as long as all the rest of a report; an export has them.
            methods=("cam", "layercam") if look.has_fine_maps else ("cam",),
            images=how_many(multiply_accumulates(network, normalisation, two[:1])),
        ),
        ood_score=measure_detection(
            score,
            score(validation.images),
            choice,
            dataset=dataset.name,
            rule=dataset.image,
            held_out=False,
        ),
        abstention=measure_abstention(*choose_threshold(confidence, right), confidence, right),
    )
