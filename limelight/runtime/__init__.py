"""Inference with ONNX Runtime on a GPU or a CPU."""
