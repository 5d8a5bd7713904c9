"""The resilience benchmark's own logic: what it sends, and how it judges."""

import asyncio
import itertools
import json
import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import psutil  # type: ignore[import-untyped]
import pytest

from bench.common import ROOT
from bench.common.client import Call, Outcome, http_request
from bench.common.load import Load
from bench.common.report import Report
from bench.resilience import drain, fairness, kill, overload, shadow, soak_verdicts
from bench.resilience.drain import sort_out
from bench.resilience.hostile import hostile_calls, stray_calls
from bench.resilience.kill import client_ports
from bench.resilience.soak import honest_calls


def verdicts(report: Report) -> list[bool]:
    return [each.reached for each in report.verdicts]


@pytest.mark.parametrize(
    ("result", "sent_s", "seconds", "verdict"),
    [
        ("200", 9.0, 0.1, "fine"),
        ("200", 11.0, 0.1, "fine"),
        ("not connected (ConnectionRefusedError)", 9.0, 0.1, "refused early"),
        ("not connected (ConnectionRefusedError)", 11.0, 0.1, "fine"),
        ("503 draining", 9.0, 0.1, "refused early"),
        ("503 draining", 11.0, 0.1, "fine"),
        ("reset before the answer", 11.0, 0.1, "dropped"),
        ("no answer", 9.0, 3.0, "dropped"),
    ],
)
def test_a_new_client_is_answered_until_the_pause_is_over(
    result: str, sent_s: float, seconds: float, verdict: str
) -> None:
    assert sort_out(Outcome("probe", sent_s, seconds, result), closing_s=10.0) == verdict


def test_honest_and_hostile_requests_are_of_every_kind() -> None:
    rng = random.Random(0)
    honest = Counter(call.kind for call in itertools.islice(honest_calls(rng), 2000))
    assert set(honest) == {
        *("predict", "predict JPEG", "explain", "explain PNG", "OIP"),
        *("page", "metrics", "readyz"),
    }
    assert honest["predict"] > 800
    hostile = Counter(call.kind for call in itertools.islice(hostile_calls(rng), 2000))
    assert set(hostile) == {
        *("broken image", "stray", "stray parameter", "leaves"),
        *("large image", "large body"),
    }


def test_no_two_stray_requests_are_alike() -> None:
    heads = [
        call.payload.partition(b"\r\n")[0]
        for call in itertools.islice(stray_calls(random.Random(0)), 500)
    ]
    assert len(set(heads)) == 500


def test_a_stop_is_judged_by_answers_clients_status_and_time() -> None:
    good = {
        "answered": 200,
        "refused_early": 0,
        "dropped": 0,
        "exit_status": 0,
        "exit_after_s": 1.8,
        "drain_s": 1.0,
    }
    for change, expected in (
        ({}, [True, True, True, True]),
        ({"answered": 199}, [False, True, True, True]),
        ({"dropped": 1}, [True, False, True, True]),
        ({"exit_status": -9}, [True, True, False, True]),
        ({"exit_after_s": 6.5}, [True, True, True, False]),
    ):
        report = Report("drain", {})
        drain.judge(report, "SIGTERM", [good, good | change])
        assert verdicts(report) == expected


def test_a_kill_may_cost_what_was_in_flight_on_the_worker_and_no_more() -> None:
    good = {"replaced_after_s": 1.5, "failed": 3, "in_flight": 3}
    for change, expected in (
        ({}, [True, True]),
        ({"failed": 4}, [True, False]),
        ({"replaced_after_s": None}, [False, True]),
        ({"replaced_after_s": 5.5}, [False, True]),
    ):
        report = Report("kill", {})
        kill.judge(report, "as it is", [good, good | change])
        assert verdicts(report) == expected


def test_only_a_503_that_says_when_to_come_back_is_a_refusal() -> None:
    outcomes = [
        Outcome("/predict", 0.0, 0.1, "200"),
        Outcome("/predict", 0.0, 0.1, "503 overloaded", retry_after=True),
        Outcome("/predict", 0.0, 0.1, "503 overloaded"),
        Outcome("/explain", 0.0, 0.1, "503 deadline", retry_after=True),
        Outcome("/explain", 0.0, 0.1, "reset before the answer"),
    ]
    load = Load(outcomes=outcomes, elapsed_s=1.0, client_cpu_s=0.1)
    assert overload.strays(load) == {"503 overloaded": 1, "reset before the answer": 1}
    assert overload.refused_share(load, "/predict") == pytest.approx(2 / 3)
    assert overload.refused_share(load, "/explain") == 0.5


def test_a_neighbour_of_a_flood_is_judged_by_its_p99_and_its_answers() -> None:
    good = {"p99_quiet_ms": 10.0, "p99_flood_ms": 19.0, "failed": 0}
    for change, expected in (
        ({}, [True, True]),
        ({"p99_flood_ms": 41.0}, [False, True]),
        ({"failed": 1}, [True, False]),
    ):
        report = Report("fairness", {})
        fairness.judge(report, "no keys", [good | change])
        assert verdicts(report) == expected


def test_a_shadow_is_judged_by_the_turn_beside_it() -> None:
    """A machine that becomes slower slows both, and must not count."""
    turn = {"p50": 1.0, "p95": 2.0, "p99": 10.0, "failed": 0, "compared": 5}
    alone = [turn | {"p99": p99} for p99 in (10.0, 20.0, 40.0)]
    for changes, expected in (
        ({}, [True, True, True]),
        ({"p99": 1.06}, [False, True, True]),
        ({"failed": 1}, [True, False, True]),
        ({"compared": 0}, [True, True, False]),
    ):
        factor = changes.get("p99", 1.04)
        beside = [each | changes | {"p99": each["p99"] * factor} for each in alone]
        report = Report("shadow", {})
        shadow.judge(report, {"without": alone, "with": beside})
        assert verdicts(report) == expected


async def test_a_flood_goes_on_after_answers_and_pauses_after_rejections(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fairness, "_PAUSE_S", 60.0)
    answers = 40

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal answers
        while await reader.readline():
            await reader.readuntil(b"\r\n\r\n")
            answers -= 1
            head = b"HTTP/1.1 200 OK" if answers >= 0 else b"HTTP/1.1 503 No\r\nRetry-After: 1"
            writer.write(head + b"\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    service = await asyncio.start_server(serve, "127.0.0.1", 0)
    server = SimpleNamespace(port=service.sockets[0].getsockname()[1])
    stop, call = asyncio.Event(), Call("explain", http_request("POST", "/"))
    flood = asyncio.create_task(fairness._flood(server, call, stop))  # type: ignore[arg-type]
    await asyncio.sleep(0.5)
    stop.set()
    assert (await flood).count() == {"200": 40, "503": 16}
    service.close()


async def test_the_kernel_names_the_clients_of_a_process() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = int(server.sockets[0].getsockname()[1])
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    own_port = int(writer.get_extra_info("sockname")[1])
    assert own_port in client_ports(psutil.Process(os.getpid()))
    writer.close()
    await writer.wait_closed()
    server.close()
    await server.wait_closed()


@pytest.mark.parametrize(
    ("sent_s", "seconds", "result", "failed"),
    [
        (9.0, 0.1, "200", False),
        (9.0, 0.1, "closed before the answer", True),
        (9.0, 1.5, "closed before the answer", False),
        (14.0, 0.1, "reset before the answer", False),
        (16.0, 0.1, "reset before the answer", True),
        (14.0, 0.1, "not connected (ConnectionRefusedError)", False),
        (14.0, 0.1, "503 overloaded", False),
        (16.0, 0.1, "503 overloaded", True),
        (14.0, 0.1, "500 internal_error", True),
        (14.0, 0.1, "UNAVAILABLE", False),
        (14.0, 0.1, "INTERNAL", True),
        (14.0, 30.0, "no answer", True),
    ],
)
def test_only_lost_connections_and_503_near_a_kill_are_excused(
    sent_s: float, seconds: float, result: str, failed: bool
) -> None:
    outcome = Outcome("predict", sent_s, seconds, result)
    assert soak_verdicts.failures([outcome], [10.0]) == ([outcome] if failed else [])


def seen(
    result: str = "200", stray: str = "404", growth: float = 1.0, lines: int = 500
) -> soak_verdicts.Seen:
    found = soak_verdicts.Seen(seconds=100, kills_s=[50.0], hostile=Counter({f"stray: {stray}": 1}))
    found.honest = [Outcome("predict", 10.0, 0.1, result)]
    found.metrics_lines = [(5.0, 100), (30.0, 500), (90.0, lines)]
    for role, factor in (("parent", 1.0), ("oldest worker", growth), ("other worker", 1.09)):
        found.samples += [
            soak_verdicts.Sample(at_s, role, 1, 100 * (factor if at_s > 80 else 1), 40, 10)
            for at_s in range(100)
        ]
    return found


@pytest.mark.parametrize(
    ("found", "died", "workers", "missed"),
    [
        (seen(), set(), 2, None),
        (seen(growth=1.2), set(), 2, "oldest worker: memory"),
        (seen(lines=600), set(), 2, "/metrics grows"),
        (seen(result="500 internal_error"), set(), 2, "no honest request fails"),
        (seen(stray="503 overloaded"), set(), 2, None),
        (seen(stray="500 internal_error"), set(), 2, "no hostile request fails"),
        (seen(), {7}, 2, "workers die only of kills"),
        (seen(), set(), 1, "workers die only of kills"),
    ],
)
def test_soak_has_to_be_flat_and_without_failures_or_other_deaths(
    found: soak_verdicts.Seen, died: set[int], workers: int, missed: str | None
) -> None:
    report = Report("soak", {})
    soak_verdicts.judge(report, found, died=died, workers=workers)
    wrong = [each.target for each in report.verdicts if not each.reached]
    assert len(report.verdicts) == 7
    assert len(wrong) == (missed is not None)
    assert not wrong or wrong[0].startswith(str(missed))


def test_soak_of_seconds_kills_a_worker_and_answers_everybody(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bench.resilience", "soak", "--minutes", "0.1"]
    done = subprocess.run(
        [*command, "--to", str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    found = json.loads((tmp_path / "resilience-soak.json").read_text())
    reached = {each["target"]: each["reached"] for each in found["verdicts"]}
    # Whether memory is flat cannot be seen in seconds.
    assert done.returncode == (0 if all(reached.values()) else 1), done.stderr
    assert [reached[target] for target in reached if "grow" not in target] == [True] * 3, (
        done.stdout
    )
    assert found["measurements"]["kills_s"]
    assert sum(minute["requests"] for minute in found["measurements"]["minutes"]) > 50
    assert {name.partition(":")[0] for name in found["measurements"]["hostile"]} >= {
        "broken image",
        "stray",
        "stray parameter",
    }
