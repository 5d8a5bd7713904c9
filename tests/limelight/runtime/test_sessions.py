"""Sessions for fixed batch sizes, opened on a CPU."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnxruntime as ort
import pytest

from limelight.artifact.store import Artifact
from limelight.runtime.onnx_session import open_session
from limelight.runtime.sessions import Sessions, padded_batch_size
from tests.serving_kit import COLOUR_NETWORK


class Opener:
    """Opens sessions of a graph, and keeps them."""

    def __init__(self, artifact: Artifact) -> None:
        self.graph = artifact.graph("model.onnx")
        self.opened: list[ort.InferenceSession] = []

    def __call__(self) -> ort.InferenceSession:
        self.opened.append(open_session(self.graph, device="cpu", threads=1))
        return self.opened[-1]


@pytest.mark.parametrize(("batch", "size"), [(0, 1), (1, 1), (2, 2), (3, 4), (32, 32), (33, 64)])
def test_batch_is_padded_to_the_next_power_of_two(batch: int, size: int) -> None:
    assert padded_batch_size(batch) == size


def test_cpu_has_one_session_for_all_sizes(colours: Artifact) -> None:
    opener = Opener(colours)
    sessions = Sessions(opener)
    assert not sessions.fixed_sizes
    assert {id(sessions.of_size(size)) for size in (1, 2, 64)} == {id(sessions.first)}
    assert len(opener.opened) == 1


def test_each_fixed_size_has_a_session_of_its_own(colours: Artifact) -> None:
    opener = Opener(colours)
    sessions = Sessions(opener, fixed_sizes=True)
    found = {size: sessions.of_size(size) for size in (4, 1, 2)}
    assert found[4] is sessions.first
    assert len({id(session) for session in found.values()}) == len(opener.opened) == 3
    assert all(sessions.of_size(size) is session for size, session in found.items())


def test_threads_that_need_the_same_size_share_one_session(colours: Artifact) -> None:
    opener = Opener(colours)
    sessions = Sessions(opener, fixed_sizes=True)
    sessions.of_size(1)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(sessions.of_size, [2] * 32))
    assert len({id(session) for session in found}) == 1
    assert len(opener.opened) == 2


@pytest.mark.parametrize("batch", [1, 3, 4, 7])
def test_padding_does_not_change_the_outputs(
    colours: Artifact, rng: np.random.Generator, batch: int
) -> None:
    images = rng.integers(0, 256, (batch, 8, 8, 3), np.uint8)
    [logits] = Sessions(Opener(colours), fixed_sizes=True).run(images, ["logits"])
    np.testing.assert_allclose(logits, COLOUR_NETWORK.logits(images), atol=1e-5)
