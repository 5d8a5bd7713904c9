"""Benchmark of the cost of a map: each method does what its row says."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from bench import maps
from bench.maps import NotTheSameError, Subject, Way
from models import ClassMapNetwork
from pipeline.runs.exported import Trained, read_trained


class Counted(Subject):
    """Counts the images that either runtime looks at."""

    def __init__(self, *, batch: int) -> None:
        super().__init__("digits", batch=batch, threads=1)
        self.looked_at = 0
        run = self.engine.run

        def counting(
            images_nhwc: NDArray[np.uint8], outputs: Sequence[str]
        ) -> dict[str, NDArray[np.float32]]:
            self.looked_at += len(images_nhwc)
            return run(images_nhwc, outputs)

        self.engine.run = counting  # type: ignore[method-assign]

    def network(self) -> ClassMapNetwork:
        network = super().network()
        network.register_forward_pre_hook(self._count)
        return network

    def _count(self, _: object, inputs: tuple[torch.Tensor, ...]) -> None:
        self.looked_at += len(inputs[0])


def test_every_way_looks_once_at_each_image() -> None:
    subject = Counted(batch=2)
    for way, run in maps.ways_of(subject).items():
        subject.looked_at = 0
        run()
        assert subject.looked_at == 2, way


def test_every_way_gives_as_many_maps_as_its_row_says() -> None:
    subject = Subject("digits", batch=2, threads=1)
    found: dict[tuple[str, int], Any] = {
        (way.name, way.maps): run() for way, run in maps.ways_of(subject).items()
    }
    ours = found.pop(("Limelight, CAM", 10))
    assert ours["cams"].shape == (2, 10, 7, 7)
    theirs = {key: len(made) for key, made in found.items() if key[1]}
    assert theirs == {key: key[1] for key in theirs}
    assert len(theirs) == 5
    ((winners,),) = found["torchcam, CAM", 1]
    winner = ours["probabilities"].argmax(1)
    expected = ours["cams"][np.arange(2), winner]
    expected -= expected.min((1, 2), keepdims=True)
    expected /= expected.max((1, 2), keepdims=True)
    np.testing.assert_allclose(winners.numpy(), expected, atol=1e-4)


def test_two_networks_are_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    def altered(path: Path) -> Trained:
        trained = read_trained(path)
        with torch.no_grad():
            trained.network.head.bias[3] += 0.01
        return trained

    monkeypatch.setattr(maps, "read_trained", altered)
    with pytest.raises(NotTheSameError, match="digits: torch's logits differ by"):
        Subject("digits", batch=1, threads=1)


def test_a_cost_is_the_median_of_ratios_within_a_repeat() -> None:
    times = {
        Way("no map", "ONNX Runtime", 0): [1e-3, 2e-3, 4e-3],
        Way("no map", "PyTorch", 0): [2e-3, 8e-3, 16e-3],
        Way("Limelight, CAM", "ONNX Runtime", 10): [1.1e-3, 2.4e-3, 4e-3],
        Way("torchcam, CAM", "PyTorch", 1): [3e-3, 8e-3, 32e-3],
    }
    assert maps.rows_of(times)[1:] == [
        ("no map", "PyTorch", "0", "8 (2 to 16)", "1.00", "4.00 (2.00 to 4.00)"),
        (
            "Limelight, CAM",
            "ONNX Runtime",
            "10",
            "2.4 (1.1 to 4)",
            "1.10 (1.00 to 1.20)",
            "1.10 (1.00 to 1.20)",
        ),
        (
            "torchcam, CAM",
            "PyTorch",
            "1",
            "8 (3 to 32)",
            "1.50 (1.00 to 2.00)",
            "4.00 (3.00 to 8.00)",
        ),
    ]


def test_a_short_run_writes_every_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1})
    monkeypatch.setattr("torch.set_num_threads", lambda _: None)
    arguments = ["maps", "--models", "digits", "--batches", "1", "2", "--repeats", "1"]
    monkeypatch.setattr(sys, "argv", [*arguments, "--seconds", "0", "--to", str(tmp_path)])
    assert maps.main() == 0
    written = json.loads((tmp_path / "maps.json").read_text())["measurements"]
    assert list(written) == [
        f"digits, batch {batch}, {threads}"
        for threads in ("1 thread", "2 threads")
        for batch in (1, 2)
    ]
    assert all(len(ways) == 8 for ways in written.values())
    assert "**digits, batch 2, 2 threads**" in (tmp_path / "maps.md").read_text()
