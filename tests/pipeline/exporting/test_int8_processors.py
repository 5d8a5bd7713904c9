"""int8 on this processor: the shipped graph is right, and one that saturates is refused."""

from pathlib import Path

import pytest

from limelight.artifact.golden import read_golden
from limelight.artifact.store import Artifact, find_artifacts, load_artifact, shipped_models
from limelight.runtime.engine import Engine
from limelight.runtime.precision import choose_engine, golden_problem
from pipeline.exporting.int8 import _quantize, _Reader
from pipeline.exporting.serialization import describe

CPU = Path("/proc/cpuinfo")
FLAGS = (
    set(CPU.read_text().partition("flags")[2].partition("\n")[0].split()) if CPU.exists() else ()
)
ADDS_EXACTLY = bool({"avx512_vnni", "avx_vnni"} & set(FLAGS))
"""VNNI adds four products of 8 bits in 32 bits; AVX2 adds two in 16 bits, which may saturate."""


@pytest.fixture
def shipped() -> Artifact:
    return load_artifact(find_artifacts(shipped_models())["cifar10"])


@pytest.fixture
def saturating(shipped: Artifact, tmp_path: Path) -> Artifact:
    """The shipped model, with an int8 graph that quantises every convolution to all of 8 bits.

    Its first convolution saturates with AVX2: the pixels and its weights are both large.
    """
    folder, manifest = tmp_path, shipped.manifest
    for file in manifest.files:
        (folder / file).write_bytes((shipped.folder / file).read_bytes())
    golden, int8_file = read_golden(shipped), manifest.int8_file
    assert golden is not None
    assert manifest.int8 is not None
    assert int8_file is not None
    _quantize(
        shipped.onnx_path,
        folder / int8_file,
        _Reader(golden.images),
        manifest.int8.percentile,
        (),
        reduce_range=False,
    )
    files = manifest.files | {int8_file: describe(folder / int8_file, "onnx-int8")}
    return Artifact(folder, manifest.model_copy(update={"files": files}))


def test_shipped_int8_graph_is_right_on_this_processor(shipped: Artifact) -> None:
    golden = read_golden(shipped)
    assert golden is not None
    assert golden_problem(Engine(shipped, device="cpu", precision="int8"), golden) is None


@pytest.mark.skipif(ADDS_EXACTLY or not FLAGS, reason="this processor adds 8-bit products exactly")
def test_saturating_graph_is_refused_where_products_saturate(saturating: Artifact) -> None:
    engine = choose_engine(saturating, device="cpu")
    assert engine.precision == "float32"
    assert "gives wrong answers on this processor" in engine.precision_reason


@pytest.mark.skipif(not ADDS_EXACTLY, reason="8-bit products saturate on this processor")
def test_same_graph_is_right_where_products_are_added_exactly(saturating: Artifact) -> None:
    golden = read_golden(saturating)
    assert golden is not None
    assert golden_problem(Engine(saturating, device="cpu", precision="int8"), golden) is None
