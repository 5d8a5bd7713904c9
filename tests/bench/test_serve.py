"""The serving benchmark's own logic: what it posts, in which order, and what it makes of it."""

import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from email.parser import BytesParser
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bench import serve
from bench.common.client import Outcome
from bench.common.load import Load
from bench.common.report import Report
from bench.serving import ceiling, environments, formats, measuring, summary
from bench.serving.ceiling import Rate
from bench.serving.contestants import ENTRIES
from bench.serving.environments import Environment, NotInstallableError
from bench.serving.measuring import Measurement, Results, Visit
from bench.serving.workloads import WORKLOADS, surest
from limelight.runtime.onnx_session import cuda_problem

# Images per second of three repeats.
RATES = {
    ("predict", "cifar10-png", 16): (880.0, 900.0, 850.0),
    ("predict", "cifar10-png", 64): (800.0, 700.0, 900.0),
    ("explain", "cifar10-png", 16): (700.0, 700.0, 700.0),
    ("bentoml", "cifar10-png", 16): (220.0, 220.0, 220.0),
    ("bentoml", "cifar10-png", 64): (200.0, 200.0, 200.0),
    ("fastapi", "cifar10-png", 16): (440.0, 400.0, 480.0),
    ("predict", "digits-png", 16): (5000.0, 5000.0, 5000.0),
    ("fastapi", "digits-png", 16): (1900.0, 1900.0, 1900.0),
    ("explain", "digits-png", 16): (4800.0, 4500.0, 4600.0),
    ("infer", "cifar10-batch", 64): (896.0, 896.0, 896.0),
}


@pytest.fixture
def results() -> Results:
    made = Results()
    for (contestant, workload, connections), rates in RATES.items():
        for repeat, rate in enumerate(rates):
            errors = 2 if contestant == "fastapi" else 0
            made.measurements.append(
                Measurement(contestant, workload, connections, repeat, rate, 10, 20, errors, 0.1)
            )
    made.visits.append(Visit("ours", 2.5, 251.0, 600.0))
    for processes, batch, rates in (
        (2, 1, (800.0, 820.0, 700.0)),
        (1, 1, (500.0, 500.0, 990.0)),
        (2, 8, (1000.0, 1010.0, 2000.0)),
    ):
        made.rates += [Rate("cifar10", processes, 3 - processes, batch, rate) for rate in rates]
    return made


def test_images_are_the_same_at_every_call_and_all_different() -> None:
    for workload in WORKLOADS.values():
        bodies = workload.bodies(6)
        assert bodies[:3] == workload.bodies(3)
        assert len(set(bodies)) == 6
        if workload.batch > 1:
            continue
        image = Image.open(BytesIO(bodies[0]))
        assert (image.format, image.size) == (workload.format, (workload.size, workload.size))


def test_the_surest_image_is_what_it_shows() -> None:
    labels = {name: surest(workload)[1] for name, workload in WORKLOADS.items()}
    assert labels == {name: "cat" if "cifar10" in name else "7" for name in WORKLOADS}


def test_a_batch_holds_the_pixels_of_as_many_images_and_begins_with_its_own() -> None:
    workload = WORKLOADS["digits-batch"]
    assert workload.shape == (32, 28, 28, 1)
    images = [np.asarray(image).tobytes() for image in workload.images()]
    bodies = workload.bodies()
    assert len(bodies) == 64
    for at in (0, 1, 40, 63):
        assert bodies[at] == b"".join((images + images)[at : at + 32])


def test_a_batch_is_put_as_each_server_wants_it_and_its_first_label_read() -> None:
    workload = WORKLOADS["cifar10-batch"]
    pixels = workload.bodies(1)[0]
    assert formats.raw(pixels, workload) == (pixels, {"Content-Type": "application/octet-stream"})
    body, headers = formats.open_inference_pixels(pixels, workload)
    length = int(headers["Inference-Header-Content-Length"])
    (tensor,) = json.loads(body[:length])["inputs"]
    assert (tensor["shape"], body[length:]) == ([32, 32, 32, 3], pixels)
    answer = {"outputs": [{"data": ["0.98:3:cat", "0.5:5:dog"]}]}
    assert formats.classified_label(json.dumps(answer).encode()) == "cat"
    assert formats.first_label(b'[{"label": "cat"}, {"label": "dog"}]') == "cat"


def test_a_form_holds_the_image_under_its_name() -> None:
    body, headers = formats.form(b"\x89PNG\r\n--\r\n", WORKLOADS["cifar10-png"])
    head = b"Content-Type: " + headers["Content-Type"].encode() + b"\r\n\r\n"
    _, part = BytesParser().parsebytes(head + body).walk()
    assert part.get_param("name", header="content-disposition") == "images"
    assert part.get_content_type() == "image/png"
    assert part.get_payload(decode=True) == b"\x89PNG\r\n--\r\n"


def test_each_workload_goes_to_those_who_can_take_it() -> None:
    for workload in WORKLOADS.values():
        takers = [
            contestant.name
            for entry in ENTRIES
            for contestant in entry.contestants
            if contestant.fits(workload)
        ]
        ours = ["infer"] if workload.batch > 1 else ["predict", "oip", "explain"]
        assert takers[: len(ours)] == ours
        assert len(takers) > len(ours)


def test_an_unknown_name_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        serve.parser().parse_args(["--only", "nginx"])
    assert "invalid choice: 'nginx'" in capsys.readouterr().err


def test_every_package_of_a_peer_is_pinned() -> None:
    assert all("==" in package for package in environments.PACKAGES["main"])


def test_the_peers_of_a_gpu_live_apart_and_have_its_runtime(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    installed: list[list[str]] = []

    def create(folder: Path, **_: bool) -> None:
        folder.mkdir()

    def run(command: list[str], **_: bool) -> subprocess.CompletedProcess[str]:
        installed.append(command)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(environments, "FOLDER", tmp_path)
    monkeypatch.setattr("venv.create", create)
    monkeypatch.setattr("subprocess.run", run)
    made = environments.prepare("main", ("numpy==2", "onnxruntime==1.31.1"), device="cuda")
    assert made.python == tmp_path / "main-cuda" / "bin" / "python"
    assert installed[0][-2:] == ["numpy==2", "onnxruntime-gpu[cuda,cudnn]==1.31.1"]
    # It is there, and is not installed again.
    environments.prepare("main", ("numpy==2", "onnxruntime==1.31.1"), device="cuda")
    assert len(installed) == 1


def test_the_ceiling_is_the_better_layout_in_the_median(results: Results) -> None:
    by_batch = summary.ceiling(results, "cifar10")
    assert {batch: spread.median for batch, spread in by_batch.items()} == {1: 800, 8: 1010}
    assert summary.top(results, "cifar10") == 1010
    assert summary.top(results, "digits") is None


def test_a_peak_is_the_best_median_at_any_number_of_connections(results: Results) -> None:
    loads = summary.loads_of(results, WORKLOADS["cifar10-png"])
    assert summary.best(loads, ["predict"]) == 880
    assert summary.best(loads, ["predict"], 64) == 800
    assert summary.best(loads, ["bentoml", "fastapi"]) == 440
    assert summary.best(loads, ["litserve"]) is None


def test_targets_compare_each_contestants_own_best(results: Results) -> None:
    report = Report("serve", {})
    summary.add_to(report, results)
    assert [(each.target, each.measured, each.reached) for each in report.verdicts] == [
        ("cifar10, 32×32 PNG: at least 90% of ONNX Runtime alone", "79%", False),
        (
            "cifar10, 32×32 PNG: at least 1.25 × the best peer",
            "2.00 ×; the ceiling of float32 is 2.30 ×",
            True,
        ),
        ("cifar10, 32×32 PNG: `/explain` at least 90 % of `/predict`", "80%", False),
        ("digits, 28×28 PNG: at least 3 × the best peer", "2.63 ×", False),
        ("digits, 28×28 PNG: `/explain` at least 90 % of `/predict`", "92%", True),
        ("cifar10, 32 images of 32×32 pixels: at least 90% of ONNX Runtime alone", "89%", False),
        ("first answer within 2 s", "2.50 s", False),
        ("at most 140 MB a worker", "251 MB", False),
    ]


def test_the_tables_say_ratios_errors_and_failures(results: Results) -> None:
    results.failures["litserve"] = "not installable: no wheel"
    report = Report("serve", {})
    summary.add_to(report, results)
    text = "\n".join(report.tables)
    assert "| Limelight `/predict` | 16 | 880 (850 to 900) | 87% | 2.00 | 10.0 | 20.0 | 0 |" in text
    assert "| FastAPI | 16 | 440 (400 to 480) | 44% | 1.00 | 10.0 | 20.0 | 6 |" in text
    assert "| litserve | – | – | – | not installable: no wheel |" in text
    assert "| 8 | 1,010 (1,000 to 2,000) |" in text
    for found in report.tables:
        assert len({line.count("|") for line in found.splitlines() if "|" in line}) == 1


class Answering:
    """Stands for a server."""

    port = 1

    def wait(self, question: object) -> float:
        return 0.5

    def family(self) -> list[Any]:
        return [type("Process", (), {"memory_full_info": lambda self: self, "pss": 2e6})()]


def pretend(monkeypatch: pytest.MonkeyPatch, result: str) -> list[int]:
    """Let no server start, and let loads of more than 4 connections on batches bring `result`."""
    loads: list[int] = []

    @contextmanager
    def running(*_: object, **__: object) -> Iterator[Answering]:
        yield Answering()

    def busy(server: Answering, calls: list[Any], connections: int, seconds: float) -> Load:
        loads.append(connections)
        large = b"/classify" in calls[0].payload and connections > 4
        outcomes = [Outcome("x", 0.0, 0.01, result if large else "200")] * 100
        return Load(outcomes=outcomes, elapsed_s=2.0, client_cpu_s=0.2)

    monkeypatch.setattr(measuring, "running", running)
    monkeypatch.setattr(measuring, "SETTLE_S", 0)
    monkeypatch.setattr(measuring, "_busy", busy)
    return loads


def test_a_contestant_that_answers_nothing_is_asked_the_next_thing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pretend(monkeypatch, "503 overloaded")
    results = Results()
    measuring.visit(
        next(entry for entry in ENTRIES if entry.name == "fastapi"),
        Environment(Path(sys.executable)),
        [WORKLOADS[name] for name in ("cifar10-batch", "cifar10-png")],
        results,
        connections=[4, 16, 64],
        seconds=1,
        repeat=1,  # the one for batches comes first
    )
    assert [(each.workload, each.connections) for each in results.measurements] == [
        ("cifar10-batch", 4),
        *(("cifar10-png", count) for count in (4, 16, 64)),
    ]
    assert results.measurements[0].images_per_s == 50 * 32
    assert results.measurements[0].client_cores == pytest.approx(0.1)
    failure = "cifar10-batch at 16 connections: {'503 overloaded': 100}"
    assert results.failures == {"fastapi": failure}
    assert results.visits == [Visit("fastapi", 0.5, 2.0, 2.0)]


def test_a_run_visits_all_in_another_order_each_time_and_reports_what_cannot_be_had(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    visited: list[str] = []

    def visit(entry: Any, environment: object, *_: object, **__: object) -> None:
        visited.append(entry.name)

    def prepare(name: str, *, device: str) -> Environment:
        raise NotInstallableError("no  wheel")

    def measure(model: str, *, seconds: float, device: str) -> list[Rate]:
        visited.append(serve.CEILING)
        return [Rate(model, 1, 1, 1, seconds)]

    monkeypatch.setattr(serve, "visit", visit)
    monkeypatch.setattr(serve, "prepare", prepare)
    monkeypatch.setattr(ceiling, "measure", measure)
    arguments = ["--only", "ours", "litserve", "ceiling", "--workloads", "digits-png"]
    results = serve.run(serve.parser().parse_args([*arguments, "--repeats", "2"]))
    assert visited == ["ours", "ceiling", "ceiling", "ours"]
    assert results.failures == {"litserve": "no wheel"}
    assert results.rates == [Rate("digits", 1, 1, 1, 2.0)] * 2


def test_both_layouts_are_measured_at_every_batch_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ceiling.BATCHES, "cpu", (1, 2))
    rates = ceiling.measure("digits", seconds=0.1)
    assert [(each.processes, each.batch) for each in rates] == [(2, 1), (2, 2), (1, 1), (1, 2)]
    assert all(each.images_per_s > 0 for each in rates)


@pytest.mark.skipif(cuda_problem() is None, reason="this machine has a usable GPU")
def test_a_ceiling_of_a_gpu_that_is_not_there_is_an_error(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(BrokenProcessPool):
        ceiling.measure("digits", seconds=0.1, device="cuda")
    assert "cannot use CUDAExecutionProvider here" in capfd.readouterr().err
