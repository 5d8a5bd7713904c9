"""The ONNX file of the graph without LayerCAM maps, which is taken from the one with them."""

import math
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from torch import nn

from models import NetworkOptions, build_network
from models.calibrator import Calibrator
from models.normalization import Normalisation
from models.serving_graph import ServingGraph, find_layercam_stage
from pipeline.evaluation.calibration import LOG_EXPONENT_BOUNDS
from pipeline.exporting.parity import EXACT
from pipeline.exporting.serialization import save_onnx, save_onnx_part, trace

# The lowest exponent that a fit may have: it magnifies rounding.
CALIBRATOR = Calibrator(1.5, math.exp(LOG_EXPONENT_BOUNDS[0]))
NORMALISATION = Normalisation(mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.25))


def test_part_of_a_graph_is_the_graph_that_would_be_exported(tmp_path: Path) -> None:
    # That of a resnet, which takes longer to convert, is compared with eager torch in each export.
    torch.manual_seed(0)
    options = NetworkOptions(architecture="conv-bn-net", widths=(8, 12))
    network = build_network(options, in_channels=3, classes=4).eval()
    for parameter in network.head.parameters():
        parameter.data *= 400  # sure of some images
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    pixels = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), np.uint8)
    example = torch.from_numpy(pixels[:2])
    stage = find_layercam_stage(network, NORMALISATION, example)
    assert stage is not None
    plain = ServingGraph(network, NORMALISATION, CALIBRATOR).eval()
    whole = ServingGraph(network, NORMALISATION, CALIBRATOR, stage=stage).eval()
    save_onnx(trace(plain, example), plain.outputs, tmp_path / "exported.onnx")
    save_onnx(trace(whole, example), whole.outputs, tmp_path / "whole.onnx")
    save_onnx_part(tmp_path / "whole.onnx", plain.outputs, tmp_path / "part.onnx")
    exported, part = (onnx.load(tmp_path / name).graph for name in ("exported.onnx", "part.onnx"))
    assert [node.op_type for node in part.node] == [node.op_type for node in exported.node]
    assert list(part.input) == list(exported.input)
    assert [output.name for output in part.output] == list(plain.outputs)
    expected, ours = (
        onnxruntime.InferenceSession(tmp_path / name).run(None, {"images": pixels})
        for name in ("exported.onnx", "part.onnx")
    )
    for name, one, other in zip(plain.outputs, expected, ours, strict=True):
        np.testing.assert_array_equal(other, one, err_msg=name)
    with torch.inference_mode():
        eager = plain(torch.from_numpy(pixels))[plain.outputs.index("probabilities")].numpy()
    assert eager.max() > 0.9
    np.testing.assert_allclose(
        ours[plain.outputs.index("probabilities")], eager, atol=EXACT.probability
    )
