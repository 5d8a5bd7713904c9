"""Training: data, recipes, training, evaluation, calibration, export and the command line."""

# Before ONNX Runtime, whose reports of usage it turns off.
import limelight as limelight
