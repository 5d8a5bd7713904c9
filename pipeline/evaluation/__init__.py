"""What a trained network is worth: accuracy, calibration, maps, OOD detection."""
