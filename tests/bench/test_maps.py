"""What a map costs: that each way does what its row says, and how the turns are counted."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from bench import maps
from bench.explaining import subject as subjects
from bench.explaining.maps_report import Report, Timing, ratios, render
from bench.explaining.masks import ways_of_masks
from bench.explaining.subject import NotTheSameError, Subject, Way
from bench.explaining.timing import take_turns, torch_threads
from bench.explaining.ways import ways_of_one_pass
from models import ClassMapNetwork
from pipeline.runs.exported import Trained, read_trained

SHARED = {"model": "digits", "threads": 1, "batch": 2, "masks": False}


def timing(way: str, runtime: str, count: int, ms: list[float]) -> Timing:
    facts: dict[str, Any] = {"way": way, "runtime": runtime, "maps": count, "images": 1, "ms": ms}
    return Timing(**SHARED, **facts)


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


def ways_and_subjects() -> list[tuple[Counted, Way]]:
    two, one = Counted(batch=2), Counted(batch=1)
    made = [(two, way) for way in ways_of_one_pass(two)]
    return made + [(one, way) for way in ways_of_masks(one)]


def test_every_way_looks_at_as_many_images_as_its_row_says() -> None:
    for subject, way in ways_and_subjects():
        if way.name == "Limelight's head, CAM":  # which does not call the network as a whole
            continue
        subject.looked_at = 0
        way.run()
        assert subject.looked_at == way.images * len(subject.images_nhwc), way.name


def test_every_way_gives_as_many_maps_as_its_row_says() -> None:
    subject = Subject("digits", batch=2, threads=1)
    found = {(way.name, way.maps): way.run() for way in ways_of_one_pass(subject)}
    ours = found.pop(("Limelight, CAM", 10))
    eager = found.pop(("Limelight's head, CAM", 10))
    assert ours["cams"].shape == (2, 10, 7, 7)
    np.testing.assert_allclose(eager[1].numpy(), ours["cams"], atol=1e-4)
    theirs = {key: len(made) for key, made in found.items() if key[1]}
    assert theirs == {key: key[1] for key in theirs}
    assert len(theirs) == 6
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

    monkeypatch.setattr(subjects, "read_trained", altered)
    with pytest.raises(NotTheSameError, match="digits: torch's logits differ by"):
        Subject("digits", batch=1, threads=1)


def test_calls_take_turns_in_an_order_that_is_turned_round() -> None:
    calls: list[str] = []
    times = take_turns([lambda: calls.append("a"), lambda: calls.append("b")], repeats=3, seconds=0)
    # Each is warmed up and its duration estimated; then one call a timing.
    assert "".join(calls) == "aabb" + "ab" + "ba" + "ab"
    assert [len(each) for each in times] == [3, 3]
    assert all(ms > 0 for each in times for ms in each)


def test_torch_has_its_threads_back_afterwards() -> None:
    before = torch.get_num_threads()
    with torch_threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


def test_a_cost_is_the_median_of_ratios_within_a_repeat() -> None:
    plain = timing("no map", "ONNX Runtime", 0, [1.0, 2.0, 4.0])
    slow = timing("no map", "PyTorch", 0, [2.0, 8.0, 16.0])
    ours = timing("Limelight, CAM", "ONNX Runtime", 10, [1.1, 2.4, 4.0])
    theirs = timing("torchcam, CAM", "PyTorch", 1, [3.0, 8.0, 32.0])
    assert ratios(ours, plain) == pytest.approx([1.1, 1.2, 1.0])
    made = Report(
        date="2026-11-21",
        processor="a processor",
        cores=1,
        versions={"torch": "2"},
        repeats=3,
        seconds=0.3,
        timings=[plain, slow, ours, theirs],
    )
    lines = render(made).splitlines()
    assert (
        "| no map | PyTorch | 0 | 1 | 8 (2 to 16) | 1.00 (1.00 to 1.00) "
        "| 4.00 (2.00 to 4.00) | – |" in lines
    )
    assert (
        "| Limelight, CAM | ONNX Runtime | 10 | 1 | 2.4 (1.1 to 4) | 1.10 (1.00 to 1.20) "
        "| 1.10 (1.00 to 1.20) | 120 |" in lines
    )
    assert (
        "| torchcam, CAM | PyTorch | 1 | 1 | 8 (3 to 32) | 1.50 (1.00 to 2.00) "
        "| 4.00 (3.00 to 8.00) | 4,000 |" in lines
    )


def test_a_quick_run_writes_every_way_and_reads_it_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1})
    arguments = ["maps", "--quick", "--models", "digits", "--to", str(tmp_path / "build")]
    monkeypatch.setattr(sys, "argv", arguments)
    assert maps.main() == 0
    made = Report.read(tmp_path / "build" / "maps.json")
    tables = {each.table for each in made.timings}
    assert tables == {
        ("digits", threads, batch, masks)
        for threads in (1, 2)
        for batch, masks in ((1, False), (2, False), (1, True))
    }
    assert len(made.timings) == 2 * (10 + 10 + 6)
    assert all(len(each.ms) == 1 for each in made.timings)
    capsys.readouterr()
    monkeypatch.setattr(sys, "argv", ["maps", "--render", str(tmp_path / "build" / "maps.json")])
    assert maps.main() == 0
    assert capsys.readouterr().out == (tmp_path / "build" / "maps.md").read_text()
