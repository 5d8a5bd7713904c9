"""Training: data, recipes, training, evaluation, calibration, export and the command line."""
