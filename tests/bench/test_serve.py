"""The serving benchmark's own logic: what it posts, how it reads wrk, and what it makes of it."""

import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from email.parser import BytesParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import psutil  # type: ignore[import-untyped]
import pytest
from PIL import Image

from bench import serve, stages
from bench.serving import (
    aims,
    ceiling,
    environments,
    formats,
    load,
    plan,
    report,
    servers,
    summary,
    visits,
)
from bench.serving.ceiling import CeilingError
from bench.serving.contestants import ENTRIES
from bench.serving.load import Load, LoadError, NothingAnsweredError
from bench.serving.plot import render_svg
from bench.serving.results import (
    CeilingRate,
    Machine,
    Measurement,
    Participant,
    ProcessMemory,
    Results,
    Visit,
)
from bench.serving.scrape import Samples
from bench.serving.servers import Question, ServerError
from bench.serving.workloads import WORKLOADS
from limelight.runtime.onnx_session import cuda_problem

WRK = """Running 1s test @ http://127.0.0.1:1
  2 requests in 1.00s
BENCH {"requests": 900, "duration_us": 2000000, "connect": 0, "read": 3, "write": 0, \
"status": 100, "timeout": 0, "p50_us": 1500, "p99_us": 4500, "max_us": 9000, "mean_us": 1750.5}
"""

PARTICIPANTS = [
    Participant(name="predict", title="Ours", ours=True, setup="as it comes", versions={"a": "1"}),
    Participant(name="explain", title="Ours too", ours=True, setup="as it comes", versions={}),
    Participant(name="bentoml", title="Native", ours=False, setup="documented", versions={}),
    Participant(name="fastapi", title="FastAPI", ours=False, setup="by hand", versions={}),
]
# Requests per second of three repeats.
RATES = {
    ("predict", "cifar10-png", 16): (880.0, 900.0, 850.0),
    ("predict", "cifar10-png", 64): (800.0, 700.0, 900.0),
    ("explain", "cifar10-png", 16): (700.0, 700.0, 700.0),
    ("bentoml", "cifar10-png", 16): (220.0, 220.0, 220.0),
    ("bentoml", "cifar10-png", 64): (200.0, 200.0, 200.0),
    ("fastapi", "cifar10-png", 16): (440.0, 400.0, 480.0),
    ("predict", "digits-png", 16): (5000.0, 5000.0, 5000.0),
    ("fastapi", "digits-png", 16): (2500.0, 2500.0, 2500.0),
    ("explain", "digits-png", 16): (4800.0, 4500.0, 4600.0),
    ("explain", "digits-png", 64): (4600.0, 4600.0, 4600.0),
}


@pytest.fixture
def results() -> Results:
    made = Results(
        date="2026-11-21",
        machine=Machine(cpu="Test", cores=2, memory_gb=8, kernel="6", python="3.11", wrk="4"),
        seconds=4,
        repeats=3,
        connections=[16, 64],
        workloads={name: WORKLOADS[name].title for name in ("cifar10-png", "digits-png")},
        models={"cifar10-png": "cifar10", "digits-png": "digits"},
        participants=list(PARTICIPANTS),
    )
    for (contestant, workload, connections), rates in RATES.items():
        for repeat, rate in enumerate(rates):
            made.measurements.append(
                Measurement(
                    contestant=contestant,
                    workload=workload,
                    connections=connections,
                    repeat=repeat,
                    requests_per_s=rate,
                    p50_ms=10.0,
                    p99_ms=31.0 if workload == "digits-png" else 20.0,
                    max_ms=50.0,
                    errors={"status": 2} if contestant == "fastapi" else {},
                    mean_batch=7.5 if contestant == "predict" else None,
                )
            )
    made.visits.append(
        Visit(
            entry="ours",
            contestants=["predict", "explain"],
            model="cifar10",
            repeat=0,
            first_answer_s=2.5,
            probe_images_per_s=1000.0,
            processes=[
                ProcessMemory(name="w", working=True, cpu_s=9, rss_mb=300, pss_mb=200),
                ProcessMemory(name="w", working=True, cpu_s=8, rss_mb=300, pss_mb=251),
                ProcessMemory(name="idle", working=False, cpu_s=0, rss_mb=900, pss_mb=800),
            ],
        )
    )
    for processes, batch, rates in (
        (2, 1, (800.0, 820.0, 700.0)),
        (1, 1, (500.0, 500.0, 990.0)),
        (2, 8, (1000.0, 1010.0, 2000.0)),
    ):
        for repeat, rate in enumerate(rates):
            made.ceiling.append(
                CeilingRate(
                    model="cifar10",
                    repeat=repeat,
                    processes=processes,
                    threads=3 - processes,
                    batch=batch,
                    images_per_s=rate,
                )
            )
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
    array = np.frombuffer(pixels, np.uint8).reshape(32, 32, 32, 3)
    assert formats.raw(pixels, workload) == (pixels, {"Content-Type": "application/octet-stream"})
    assert np.array_equal(json.loads(formats.lists(pixels, workload)[0])["images"], array)
    body, headers = formats.open_inference_binary(pixels, workload)
    length = int(headers["Inference-Header-Content-Length"])
    (tensor,) = json.loads(body[:length])["inputs"]
    assert (tensor["shape"], body[length:]) == ([32, 32, 32, 3], pixels)
    (tensor,) = json.loads(formats.open_inference_lists(pixels, workload)[0])["inputs"]
    assert np.array_equal(np.reshape(tensor["data"], tensor["shape"]), array)
    answer = {"outputs": [{"data": ["0.98:3:cat", "0.5:5:dog"]}]}
    assert formats.classified_label(json.dumps(answer).encode()) == "cat"


def test_each_workload_goes_to_those_who_can_take_it() -> None:
    for workload in WORKLOADS.values():
        takers = [
            contestant.name
            for entry in ENTRIES
            for contestant in entry.contestants
            if contestant.fits(workload)
        ]
        ours = ["infer"] if workload.batch > 1 else ["predict", "explain"]
        assert takers[: len(ours)] == ours
        assert len(takers) > len(ours) + 1


def test_a_batch_counts_as_many_images_as_it_has(results: Results) -> None:
    batch = {"workload": "cifar10-batch", "requests_per_s": 28.0, "images": 32}
    for name in ("infer", "bentoml-array"):
        results.participants.append(PARTICIPANTS[0].model_copy(update={"name": name}))
    changes = {**batch, "contestant": "infer"}
    results.measurements.append(results.measurements[0].model_copy(update=changes))
    changes = {**batch, "contestant": "bentoml-array", "requests_per_s": 7.0}
    results.measurements.append(results.measurements[0].model_copy(update=changes))
    results.workloads["cifar10-batch"] = WORKLOADS["cifar10-batch"].title
    results.models["cifar10-batch"] = "cifar10"
    (row,) = [row for row in summary.rows(results) if row.participant.name == "infer"]
    assert row.images_per_s == summary.Spread(896, 896, 896)
    assert row.to_ceiling == pytest.approx(896 / 1010)
    reached = {aim.title: aim for aim in aims.aims(results)}
    title = "cifar10, 32 images of 32×32 pixels: batches to "
    assert reached[f"{title}the ceiling"].value == pytest.approx(896 / 1010)
    assert reached[f"{title}`bentoml-array`"].value == 4.0


def test_wrks_summary_is_read_and_failures_are_no_throughput() -> None:
    read = load.parse(WRK)
    assert read.requests_per_s == 400
    assert (read.p50_ms, read.p99_ms, read.max_ms, read.mean_ms) == (1.5, 4.5, 9.0, 1.7505)
    assert read.errors == {"read": 3, "status": 100}


@pytest.mark.parametrize(
    "output", ["unable to connect", WRK.replace('"requests": 900', '"requests": 0')]
)
def test_a_load_that_brought_nothing_is_an_error(output: str) -> None:
    with pytest.raises(LoadError):
        load.parse(output)


def test_wrk_has_to_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(LoadError, match="apt-get install wrk"):
        load.wrk_path()


@pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed")
def test_wrk_posts_every_body_in_turn_and_counts_bad_statuses(tmp_path: Path) -> None:
    seen: list[tuple[str, str, bytes]] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            seen.append((self.path, self.headers["Content-Type"], body))
            self.send_response(500 if body == b"bad" else 200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    bodies = [b"one\r\n\0", b"bad", b"three"]
    script = load.write_script(
        tmp_path / "x", path="/p?model=m", headers={"Content-Type": "a/b"}, bodies=bodies
    )
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever).start()
        try:
            measured = load.run(script, port=server.server_port, connections=1, seconds=1)
        finally:
            server.shutdown()
    first = bodies.index(seen[0][2])
    assert seen[:4] == [("/p?model=m", "a/b", bodies[(first + at) % 3]) for at in range(4)]
    assert measured.errors["status"] == pytest.approx(measured.requests / 3, abs=1)
    assert measured.requests_per_s == pytest.approx(measured.requests * 2 / 3, rel=0.2)


def test_a_form_holds_the_image_under_its_name() -> None:
    body, headers = formats.form("images")(b"\x89PNG\r\n--\r\n", WORKLOADS["cifar10-png"])
    head = b"Content-Type: " + headers["Content-Type"].encode() + b"\r\n\r\n"
    _, part = BytesParser().parsebytes(head + body).walk()
    assert part.get_param("name", header="content-disposition") == "images"
    assert part.get_content_type() == "image/png"
    assert part.get_payload(decode=True) == b"\x89PNG\r\n--\r\n"


def test_every_repeat_visits_all_and_begins_with_another() -> None:
    orders = [plan.rotated(["a", "b", "c"], repeat) for repeat in range(4)]
    assert [order[0] for order in orders] == ["a", "b", "c", "a"]
    assert all(sorted(order) == ["a", "b", "c"] for order in orders)


def test_a_quick_run_is_short_and_a_whole_one_grows_with_what_is_asked() -> None:
    def total_s(*arguments: str) -> float:
        return serve.plan_of(serve.parser().parse_args(arguments)).total_s

    assert total_s("--quick") < 240 < total_s()
    assert total_s("--repeats", "6") == 2 * total_s()
    assert total_s("--only", "ours") < total_s("--only", "ours,ceiling") < total_s()


def test_only_those_are_visited_who_can_be_asked() -> None:
    planned = serve.plan_of(serve.parser().parse_args(["--workloads", "digits-batch"]))
    assert [entry.name for entry in planned.entries] == ["ours", "bentoml", "fastapi", "mlserver"]
    asked = [contestant for entry in planned.entries for contestant in entry.contestants]
    assert all(contestant.takes_batches for contestant in asked)
    everything = serve.plan_of(serve.parser().parse_args([]))
    assert list(everything.entries) == list(ENTRIES)


def test_an_unknown_name_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        serve.parser().parse_args(["--only", "nginx"])
    assert "is none of ours" in capsys.readouterr().err


def test_every_package_of_a_peer_is_pinned_and_every_peer_has_an_environment() -> None:
    for packages in environments.PACKAGES.values():
        assert all("==" in package for package in packages)
    assert {entry.environment for entry in ENTRIES} == {None, *environments.PACKAGES}


def test_rows_are_medians_with_their_spread_and_ratios(results: Results) -> None:
    rows = {
        (row.participant.name, row.workload, row.connections): row for row in summary.rows(results)
    }
    row = rows["predict", "cifar10-png", 16]
    assert row.images_per_s == summary.Spread(880, 850, 900)
    assert row.to_ceiling == pytest.approx(880 / 1010)
    assert row.to_best_peer == 2.0  # of FastAPI's 440, not of `explain`
    assert (row.tail, row.mean_batch, row.errors) == (2.0, 7.5, 0)
    assert rows["fastapi", "cifar10-png", 16].errors == 6
    assert rows["predict", "cifar10-png", 64].to_best_peer == 4.0
    assert rows["predict", "digits-png", 16].to_ceiling is None
    assert rows["explain", "digits-png", 64].to_best_peer is None
    assert ("explain", "cifar10-png", 64) not in rows


def test_the_ceiling_is_the_better_layout_in_the_median(results: Results) -> None:
    by_batch = summary.ceiling_by_batch(results, "cifar10")
    assert {batch: spread.median for batch, spread in by_batch.items()} == {1: 800, 8: 1010}
    assert summary.ceiling(results, "cifar10") == 1010
    assert summary.ceiling(results, "digits") is None


def test_only_processes_that_worked_count_as_workers(results: Results) -> None:
    assert summary.worker_mb(results, "predict") == summary.Spread(251, 251, 251)
    assert summary.total_mb(results, "predict") == summary.Spread(1251, 1251, 1251)
    assert summary.worker_mb(results, "fastapi") is None


def test_aims_compare_each_contestants_own_best(results: Results) -> None:
    reached = {aim.title: (round(aim.value, 3), aim.met) for aim in aims.aims(results)}
    assert reached == {
        "cifar10, 32×32 PNG: `/predict` to the ceiling": (0.871, True),
        "cifar10, 32×32 PNG: `/predict` to `bentoml`": (4.0, True),
        "cifar10, 32×32 PNG: `/explain` to `/predict`": (0.795, False),
        "digits, 28×28 PNG: `/predict` to the best peer": (2.0, False),
        "digits, 28×28 PNG: `/explain` to `/predict`": (0.92, True),
        "cifar10, 32×32 PNG: p99 to p50 at 16 connections": (2.0, True),
        "digits, 28×28 PNG: p99 to p50 at 16 connections": (3.1, False),
        "first answer after the start": (2.5, True),
        "largest worker after the load": (251.0, False),
    }


def test_loads_of_one_server_are_compared_repeat_by_repeat(results: Results) -> None:
    # 700 of 880, of 900 and of 850, where a ratio of extremes would be 700 of 850 to 900.
    spread = summary.side_by_side(results, "explain", "predict", "cifar10-png")
    assert spread is not None
    assert spread.median == pytest.approx(700 / 880)
    assert (spread.least, spread.most) == pytest.approx((700 / 900, 700 / 850))
    # At 16 connections, as both were measured there.
    digits = summary.side_by_side(results, "explain", "predict", "digits-png")
    assert digits == summary.Spread(0.92, 0.9, 0.96)
    assert summary.side_by_side(results, "litserve", "predict", "cifar10-png") is None
    assert "0.92× (0.9 to 0.96)" in report.render_text(results)


def test_an_aim_says_how_much_the_ceiling_leaves_to_be_had(results: Results) -> None:
    bounds = {aim.title: aim.bound for aim in aims.aims(results)}
    assert bounds["cifar10, 32×32 PNG: `/predict` to `bentoml`"] == pytest.approx(1010 / 220)
    assert bounds["digits, 28×28 PNG: `/predict` to the best peer"] is None  # no ceiling there


def test_the_tables_say_ratios_errors_and_failures(results: Results) -> None:
    failed = results.participants[3].model_copy(update={"failure": "not installable: no wheel"})
    results.participants[3] = failed
    markdown = report.render_markdown(results)
    assert (
        "| Ours | 16 | 880 (850 to 900) | 87% | 2.00× | 10.0 | 20.0 | 2.0 | 7.5 | 0 |" in markdown
    )
    assert "| FastAPI (!) | 16 | 440 (400 to 480) | 44% | 1.00× |" in markdown
    assert "by hand; failed: not installable: no wheel |" in markdown
    assert "mean batch 7.5 | 880 (850 to 900) | 110% of batch 1 |" in markdown
    assert "at 1,000 images/s before" in markdown
    for table in markdown.split("\n\n"):
        assert len({line.count("|") for line in table.splitlines() if "|" in line}) <= 1
    text = report.render_text(results)
    assert "880 (850 to 900)" in text
    assert "`" not in text.partition("\n\n")[2]


def test_results_come_back_from_their_file(results: Results, tmp_path: Path) -> None:
    file = tmp_path / "build" / "serve.json"
    results.write(file)
    assert Results.read(file) == results
    assert [path.name for path in file.parent.iterdir()] == ["serve.json"]


def test_the_plot_has_a_point_for_every_row_that_was_answered(results: Results) -> None:
    refused = {"connections": 64, "requests_per_s": 0.0, "errors": {"status": 9}}
    fastapi = [each for each in results.measurements if each.contestant == "fastapi"]
    results.measurements.append(fastapi[-1].model_copy(update=refused))
    drawn = ElementTree.fromstring(render_svg(results))
    circles = [each for each in drawn.iter() if each.tag.endswith("circle")]
    assert len(circles) == len(RATES) + len(PARTICIPANTS)  # with the legend's
    texts = {each.text for each in drawn.iter() if each.tag.endswith("text")}
    assert {"cifar10, 32×32 PNG", "Native", "ONNX Runtime alone", "1,000", "64"} <= texts


ECHO = """
import http.server, subprocess, sys
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *arguments):
        pass
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def question(expected: str) -> Question:
    return Question(
        "/", {"Content-Type": "text/plain"}, b"cat", lambda content: content.decode(), expected
    )


def test_a_server_is_ready_when_it_answers_right_and_its_family_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servers, "_STOP_TIMEOUT_S", 0.5)  # its child knows no better
    (port,) = servers.free_ports(1)
    command = [sys.executable, "-c", ECHO, str(port)]
    with servers.running(command, port=port, environment={}, log=tmp_path / "log") as server:
        assert 0 < server.wait(question("cat")) < 30
        family = server._family()
        assert len(server.processes()) == len(family) == 2
        assert all(0 < each.pss_mb <= each.rss_mb for each in server.processes())
    ended = (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    assert all(not each.is_running() or each.status() in ended for each in family)


def test_a_server_that_answers_wrong_or_ends_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servers, "_START_TIMEOUT_S", 1.5)
    monkeypatch.setattr(servers, "_STOP_TIMEOUT_S", 0.5)
    (port,) = servers.free_ports(1)
    log = tmp_path / "log"
    command = [sys.executable, "-c", ECHO, str(port)]
    with (
        servers.running(command, port=port, environment={}, log=log) as server,
        pytest.raises(ServerError, match="'cat' and not 'dog'"),
    ):
        server.wait(question("dog"))
    command = [sys.executable, "-c", "raise SystemExit('no model')"]
    with (
        servers.running(command, port=port, environment={}, log=log) as server,
        pytest.raises(ServerError, match=r"status 1.*no model"),
    ):
        server.wait(question("cat"))


def metrics(requests: int) -> Samples:
    """After so many requests of 5 ms on another route and of 10 ms on ours, 4 a batch."""
    seconds = {"read": 0.001, "decode": 0.002, "queue": 0.003, "compute": 0.0025, "render": 0.0005}
    lines = []
    for route, each in (("/predict", 0.01), ("/explain", 0.005)):
        name = "limelight_request_duration_seconds"
        lines.append(f'{name}_sum{{route="{route}"}} {requests * each}')
        lines.append(f'{name}_count{{route="{route}"}} {requests}')
    for stage, each in seconds.items():
        for model in ("digits", "other"):
            labels = f'{{model="{model}",stage="{stage}"}}'
            lines.append(f"limelight_stage_duration_seconds_sum{labels} {requests * each}")
            passed = requests / 2 if stage == "compute" else requests  # half of them left before
            lines.append(f"limelight_stage_duration_seconds_count{labels} {passed}")
    lines.append(f'limelight_batch_size_sum{{model="digits"}} {requests}')
    lines.append(f'limelight_batch_size_count{{model="digits"}} {requests / 4}')
    return Samples.parse("\n".join(lines) + "\n")


LOAD = Load(100, 50.0, mean_ms=12.0, p50_ms=1, p99_ms=1, max_ms=1, errors={})


def breakdown(grown: Samples) -> stages.Breakdown:
    return stages.breakdown(
        grown,
        LOAD,
        route="/predict",
        workload="w",
        model="digits",
        connections=1,
        cpu_s=0.5,
    )


def test_a_breakdown_is_the_difference_of_two_scrapes_and_adds_up() -> None:
    made = breakdown(metrics(300).since(metrics(200)))
    assert list(made.stages_us) == list(stages.STAGES)
    assert made.stages_us["queue"] == pytest.approx(3000)
    assert made.stages_us["compute"] == pytest.approx(2500)
    assert made.service_us == pytest.approx(10_000)
    assert made.rest_us == pytest.approx(1000)
    assert made.outside_us == pytest.approx(2000)
    assert made.cpu_us == pytest.approx(5000)
    assert made.mean_batch == pytest.approx(4)


def test_a_metric_that_is_absent_or_saw_nothing_is_said() -> None:
    with pytest.raises(stages.NotMeasuredError, match="request_duration"):
        breakdown(metrics(200).since(metrics(200)))
    without = Samples(
        {key: value for key, value in metrics(9).values.items() if "stage" not in key[0]}
    )
    with pytest.raises(stages.NotMeasuredError, match="stage='read'"):
        breakdown(without)


def test_the_stages_table_has_a_cell_under_every_head() -> None:
    made = breakdown(metrics(300))
    described = Machine(cpu="T", cores=2, memory_gb=8, kernel="6", python="3", wrk="4")
    table = stages.render_markdown(
        stages.Report(date="d", machine=described, versions={}, seconds=1, breakdowns=[made])
    )
    heads, rule, row = table.splitlines()
    assert heads.count("|") == rule.count("|") == row.count("|")
    assert row.startswith("| `/predict` | w | 1 | 1,000 | 2,000 | 3,000 | 2,500 | 500 | 1,000 |")


def test_on_a_gpu_the_aim_is_its_share_in_batches(results: Results) -> None:
    batches = Measurement(
        contestant="infer",
        workload="cifar10-png",
        connections=16,
        repeat=0,
        requests_per_s=250.0,
        p50_ms=1.0,
        p99_ms=2.0,
        max_ms=3.0,
        errors={},
        images=32,
    )
    rate = CeilingRate(
        model="cifar10", repeat=0, processes=1, threads=1, batch=512, images_per_s=10_000.0
    )
    machine = results.machine.model_copy(update={"gpu": "A card"})
    changes = {"machine": machine, "measurements": [batches], "ceiling": [rate]}
    on_gpu = results.model_copy(update=changes)
    (aim,) = aims.aims(on_gpu)
    assert (aim.value, aim.limit, aim.met) == (0.8, 0.8, True)
    assert report.heading(on_gpu).startswith("The networks run on one A card; Test, 2 cores")


@pytest.mark.skipif(cuda_problem() is None, reason="this machine has a usable GPU")
def test_a_ceiling_of_a_gpu_that_is_not_there_is_an_error(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(CeilingError, match="status 1"):
        ceiling.measure("digits", seconds=0.1, device="cuda")
    assert "cannot use CUDAExecutionProvider here" in capfd.readouterr().err


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


def test_a_contestant_that_answers_nothing_is_asked_the_next_thing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Answering:
        port = 1

        def wait(self, question: Question) -> float:
            return 0.5

        def processes(self) -> list[servers.Process]:
            return []

    @contextmanager
    def started(*_: object, **__: object) -> Iterator[tuple[Answering, Path]]:
        yield Answering(), tmp_path

    def run(script: Path, *, port: int, connections: int, seconds: float) -> Load:
        if "batch" in str(script) and connections > 4:
            raise NothingAnsweredError("no request was answered")
        return load.parse(WRK)

    monkeypatch.setattr(visits, "started", started)
    monkeypatch.setattr(ceiling, "probe", lambda: 1.0)
    monkeypatch.setattr(load, "run", run)
    entry = next(entry for entry in ENTRIES if entry.name == "fastapi")
    names = ["cifar10-batch", "cifar10-png"]
    images = [visits.Images(WORKLOADS[name], [b"body"], 0, "cat") for name in names]
    measured: list[Measurement] = []
    failures: list[str] = []
    visits.visit(
        entry,
        environments.own(),
        images,
        connections=[4, 16, 64],
        seconds=1,
        repeat=1,  # the one for batches comes first
        record=measured.append,
        failed=failures.append,
    )
    assert [(each.workload, each.connections) for each in measured] == [
        ("cifar10-batch", 4),
        *(("cifar10-png", count) for count in (4, 16, 64)),
    ]
    assert failures == ["cifar10-batch at 16 connections: no request was answered"]
