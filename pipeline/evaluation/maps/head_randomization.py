"""Sanity check of maps: randomisation of the head's weights (Adebayo et al., 2018)."""

import copy

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr

from models import Head
from pipeline.evaluation.maps.served_maps import Maps

SHUFFLES = 10


def head_similarity(head: Head, features: Maps, classes: NDArray[np.int64]) -> float:
    """Compute the mean rank correlation of maps with those of ten heads with shuffled weights.

    Near 0, the maps depend on what the head has learned. The correlation of a constant map is 0.
    `features` (N, C, h, w) are the head's input, `classes` (N,) those of the maps.
    """
    inputs, rows = torch.from_numpy(features), np.arange(len(classes))
    rng = torch.Generator().manual_seed(0)
    on_cpu = copy.deepcopy(head).cpu()
    with torch.inference_mode():
        learned = on_cpu.class_activation_maps(inputs).numpy()[rows, classes]
        shuffled = [
            _shuffled(on_cpu, rng).class_activation_maps(inputs).numpy()[rows, classes]
            for _ in range(SHUFFLES)
        ]
    pairs = ((map_hw, other[at]) for other in shuffled for at, map_hw in enumerate(learned))
    return float(np.mean([_rank_correlation(*pair) for pair in pairs]))


def _shuffled(head: Head, rng: torch.Generator) -> Head:
    """Copy the head and permute its weights, which keeps their distribution."""
    shuffled = copy.deepcopy(head)
    with torch.no_grad():
        for weight in shuffled.parameters():
            order = torch.randperm(weight.numel(), generator=rng)
            weight.copy_(weight.flatten()[order].reshape(weight.shape))
    return shuffled


def _rank_correlation(one: Maps, other: Maps) -> float:
    """Compute Spearman's rank correlation; 0 if a map is constant, where it is not defined."""
    if np.ptp(one) == 0 or np.ptp(other) == 0:
        return 0.0
    return float(spearmanr(one, other, axis=None).statistic)
