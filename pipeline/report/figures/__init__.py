"""Figures by matplotlib: each function takes plain arrays and returns a `Figure`."""

from pipeline.report.figures.confusion import confusion_matrix
from pipeline.report.figures.curves import accuracies, learning_rates, losses, schedule, smoothed
from pipeline.report.figures.dimension import colorful_dimension
from pipeline.report.figures.output import save, to_svg
from pipeline.report.figures.reliability import reliability_diagram

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
