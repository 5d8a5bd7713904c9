"""The resilience benchmark's own logic: what it sends, and how it judges."""

import asyncio
import itertools
import os
import random
from collections import Counter

import psutil  # type: ignore[import-untyped]
import pytest

from bench.common.client import Outcome
from bench.common.load import Load
from bench.common.report import Report
from bench.resilience import drain, kill, memory, overload
from bench.resilience.drain import sort_out
from bench.resilience.kill import client_ports
from bench.resilience.memory import mixed_calls, stray_calls


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


def test_mixed_requests_are_of_every_kind() -> None:
    kinds = Counter(call.kind for call in itertools.islice(mixed_calls(random.Random(0)), 2000))
    assert set(kinds) == {
        *("predict", "explain", "explain png", "bad image", "too large"),
        *("stray", "leaves", "leaves early", "other"),
    }
    assert kinds["predict"] > 1000


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


def test_memory_has_to_be_flat_in_the_same_workers_and_nothing_to_fail() -> None:
    answers = Counter({"predict: 200": 9, "bad image: 400": 1})
    for last, found, expected in (
        ({1: 104, 2: 96}, answers, [True, True]),
        ({1: 106, 2: 100}, answers, [False, True]),
        ({1: 100, 3: 100}, answers, [False, True]),
        ({1: 100, 2: 100}, answers + Counter({"predict: 500": 1}), [True, False]),
    ):
        report = Report("memory", {})
        memory.judge(report, {1: 100, 2: 100}, last, found)
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
