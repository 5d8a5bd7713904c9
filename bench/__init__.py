"""Benchmarks: each prints the ratios that the documents quote."""

import os

# As in `limelight`, which the peers' environments lack: ONNX Runtime reports its use otherwise.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
