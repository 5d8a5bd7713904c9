"""Memory of sessions on a CPU."""

import subprocess
import sys

import pytest

from limelight.artifact.store import Artifact
from limelight.runtime.onnx_session import open_session
from tests.serving_kit import REPOSITORY

_FOUR_MODELS = """
import sys
import numpy as np
from pathlib import Path
from limelight.artifact.store import load_artifact, newest_version
from limelight.runtime.engine import Engine
from limelight.malloc import M_MMAP_THRESHOLD, set_malloc_options

def resident_mb():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 / 1e6

assert set_malloc_options({M_MMAP_THRESHOLD: 128 * 1024})
artifact = load_artifact(newest_version(Path("zoo/cifar10-small")))
engines = [Engine(artifact, device="cpu") for _ in range(4)]

def grown_by(engine, sizes):
    before = resident_mb()
    for size in sizes:
        engine.run(np.zeros((size, 32, 32, 3), np.uint8), ["probabilities"])
    return resident_mb() - before

grown = [grown_by(engine, SIZES) for engine in engines]
print(grown)
sys.exit(not (10 < grown[0] < 40 and sum(grown[1:]) < 3))
"""


@pytest.mark.parametrize("sizes", ["[64]", "range(4, 65, 4)"])
def test_models_share_the_memory_of_their_largest_batch(sizes: str) -> None:
    """Runs in a separate process, because the memory stays until it ends."""
    command = [sys.executable, "-c", _FOUR_MODELS.replace("SIZES", sizes)]
    done = subprocess.run(command, cwd=REPOSITORY, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_bytes_of_the_file_are_not_kept(colours: Artifact) -> None:
    graph = colours.graph("model.onnx")
    references = [sys.getrefcount(graph.content)]
    session = open_session(graph, device="cpu", threads=1)
    references.append(sys.getrefcount(graph.content))
    assert session.get_inputs()
    assert references[1] == references[0]
