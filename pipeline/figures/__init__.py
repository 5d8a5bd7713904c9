"""Figures, by matplotlib: each function takes plain arrays and gives a `Figure`.

This package alone imports matplotlib, and only those who draw import it.
"""

from pipeline.figures.confusion import confusion_matrix
from pipeline.figures.curves import accuracies, learning_rates, losses, schedule, smoothed
from pipeline.figures.dimension import colorful_dimension
from pipeline.figures.output import save, to_svg
from pipeline.figures.reliability import reliability_diagram

__all__ = [
    "accuracies",
    "colorful_dimension",
    "confusion_matrix",
    "learning_rates",
    "losses",
    "reliability_diagram",
    "save",
    "schedule",
    "smoothed",
    "to_svg",
]
