"""Evaluation of a trained network: accuracy, calibration, maps, OOD detection."""
