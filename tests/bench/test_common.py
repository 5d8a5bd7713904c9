"""The parts that benchmarks share: what the client counts, and how spreads and reports are made."""

import asyncio
import itertools
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest

from bench.common import server as servers
from bench.common.client import LEFT, Call, Client, Outcome, http_request, parse_answer
from bench.common.load import Load, keep_busy, offer
from bench.common.report import Report, table
from bench.common.server import Question, ServerError, free_port
from bench.common.spread import Spread, number, percentile
from bench.common.turns import rotated, take_turns

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
SHED = (
    b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\nconnection: close\r\n"
    b'content-length: 22\r\n\r\n{"code": "overloaded"}'
)


def test_an_answer_is_understood_only_once_it_is_complete() -> None:
    for end in range(len(OK)):
        assert parse_answer(OK[:end]) is None
    assert parse_answer(OK) == (len(OK), "200", True, False)
    for end in range(len(CHUNKED)):
        assert parse_answer(CHUNKED[:end]) is None
    assert parse_answer(CHUNKED) == (len(CHUNKED), "200", True, False)
    assert parse_answer(SHED) == (len(SHED), "503 overloaded", False, True)


def test_an_answer_of_unknown_length_is_not_guessed_at() -> None:
    with pytest.raises(ValueError, match="not understood"):
        parse_answer(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")


class Stub:
    """A server that answers each connection's requests by turns as it was told."""

    def __init__(self, *answers: bytes | None, delay_s: float = 0.0) -> None:
        self._answers = itertools.cycle(answers)
        self._delay_s = delay_s
        self._serving: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> int:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        return int(self._server.sockets[0].getsockname()[1])

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)
        await asyncio.sleep(0.01)

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._serving.add(asyncio.ensure_future(self._serve(reader, writer)))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                await asyncio.sleep(self._delay_s)
                answer = next(self._answers)
                if answer is None:
                    break
                writer.write(answer)
        except (asyncio.IncompleteReadError, ConnectionResetError):
            pass
        finally:
            writer.close()


def calls(leave_after_s: float | None = None) -> Iterator[Call]:
    return itertools.repeat(Call("get", http_request("GET", "/"), leave_after_s))


async def test_every_request_of_a_constant_rate_is_accounted_for() -> None:
    async with Stub(OK, SHED, None) as port:
        load = await offer(Client(port), calls(), rate=1000, count=60)
    assert load.count() == {"200": 20, "503 overloaded": 20, "closed before the answer": 20}
    assert sum(each.retry_after for each in load.outcomes) == 20
    assert 0.055 < load.elapsed_s < 2


async def test_the_rate_does_not_wait_for_answers() -> None:
    async with Stub(OK, delay_s=0.5) as port:
        load = await offer(Client(port), calls(), rate=1000, count=100)
    assert load.count() == {"200": 100}
    # One after the other they would take 50 s.
    assert load.elapsed_s < 3
    assert load.goodput(0.4) == 0


async def test_a_busy_client_has_so_many_requests_under_way_and_no_more() -> None:
    async with Stub(OK, delay_s=0.01) as port:
        client = Client(port)
        load = await keep_busy(client, calls(), connections=4, count=40)
    assert load.count() == {"200": 40}
    assert load.elapsed_s > 0.09


async def test_clients_that_leave_and_servers_that_are_not_there_are_counted_as_such() -> None:
    async with Stub(OK, delay_s=5) as port:
        load = await offer(Client(port), calls(leave_after_s=0.01), rate=1000, count=3)
        assert load.count() == {LEFT: 3}
        load = await offer(Client(port), calls(), rate=1000, count=3, timeout_s=0.1)
        assert load.count() == {"no answer": 3}
    load = await offer(Client(free_port()), calls(), rate=1000, count=3)
    assert load.count() == {"not connected (ConnectionRefusedError)": 3}


def test_a_percentile_is_a_value_that_was_measured() -> None:
    assert percentile([1.0, 2.0, 3.0, 4.0], 50) == 2.0
    assert percentile([float(value) for value in range(1, 201)], 99) == 198.0
    assert percentile([5.0], 99) == 5.0


def test_goodput_counts_neither_late_nor_refused_answers() -> None:
    outcomes = [
        Outcome("predict", 0.0, 0.1, "200"),
        Outcome("predict", 0.0, 0.3, "200"),
        Outcome("predict", 0.0, 0.1, "503 deadline"),
        Outcome("explain", 0.0, 0.1, "200"),
    ]
    load = Load(outcomes=outcomes, elapsed_s=2.0, client_cpu_s=0.1)
    assert load.goodput(0.2) == 1.0
    assert load.count("predict") == {"200": 2, "503 deadline": 1}
    assert load.latencies_s() == [0.1, 0.1, 0.3]


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
    return Question("/", bytes.decode, expected, b"cat", {"Content-Type": "text/plain"})


def command(port: int) -> list[str]:
    return [sys.executable, "-c", ECHO, str(port)]


def test_a_server_is_ready_when_it_answers_right_and_its_family_is_stopped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(servers, "STOP_TIMEOUT_S", 0.5)  # its child knows no better
    with servers.running(command, {}) as server:
        assert 0 < server.wait(question("cat")) < 30
        family = server.family()
        assert family[0].pid == server.pid
        assert len(family) == 2
        assert server.workers() == []
    ended = (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    assert all(not each.is_running() or each.status() in ended for each in family)


def test_a_server_that_answers_wrong_or_ends_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "START_TIMEOUT_S", 1.5)
    monkeypatch.setattr(servers, "STOP_TIMEOUT_S", 0.5)
    with (
        servers.running(command, {}) as server,
        pytest.raises(ServerError, match="'cat' and not 'dog'"),
    ):
        server.wait(question("dog"))
    with (
        servers.running(
            lambda _: [sys.executable, "-c", "raise SystemExit('no model')"], {}
        ) as server,
        pytest.raises(ServerError, match=r"status 1.*no model"),
    ):
        server.wait(question("cat"))


def test_a_server_inherits_no_setting_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIMELIGHT_WORKERS", "7")
    script = "import os; raise SystemExit(str(sorted(v for v in os.environ if 'LIMELIGHT' in v)))"
    with (
        servers.running(
            lambda _: [sys.executable, "-c", script], {"LIMELIGHT_DEVICE": "cpu"}
        ) as server,
        pytest.raises(ServerError, match=r"\['LIMELIGHT_DEVICE'\]"),
    ):
        server.wait()


def test_a_spread_names_median_least_and_most() -> None:
    assert Spread.of([3.0, 1.0, 2.0]) == Spread(2, 1, 3)
    assert Spread.of([640.2, 655, 610]).shown() == "640 (610 to 655)"
    assert Spread.of([0.5, 0.25, 0.75]).shown(lambda share: f"{share:.0%}") == "50% (25% to 75%)"
    assert Spread.of([2.0]).shown() == "2.00"
    assert [number(each) for each in (1234.5, 99.95, 9.876)] == ["1,234", "100.0", "9.88"]
    with pytest.raises(ValueError, match="nothing was measured"):
        Spread.of([])


def test_every_repeat_has_all_and_begins_with_another() -> None:
    orders = [rotated(["a", "b", "c"], repeat) for repeat in range(4)]
    assert [order[0] for order in orders] == ["a", "b", "c", "a"]
    assert all(sorted(order) == ["a", "b", "c"] for order in orders)


def test_calls_take_turns_in_another_order_each_time() -> None:
    calls: list[str] = []
    times = take_turns(
        {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, repeats=3, seconds=0
    )
    # Each is warmed up and its duration estimated; then one call a timing.
    assert "".join(calls) == "ab" + "ab" + "ab" + "ba" + "ab"
    assert [len(each) for each in times.values()] == [3, 3]
    assert all(seconds > 0 for each in times.values() for seconds in each)


def test_one_missed_target_fails_the_command_and_is_written(tmp_path: Path) -> None:
    report = Report("drain", {"times": 1})
    report.add_table("Stops", ("signal", "seconds"), [("SIGTERM", "0.8")])
    report.judge("exit status 0", "[0]", True)
    assert report.finish(tmp_path) == 0
    report.judge("gone within 5 s", "7 s", False)
    assert report.finish(tmp_path) == 1
    written = json.loads((tmp_path / "drain.json").read_text())
    assert [verdict["reached"] for verdict in written["verdicts"]] == [True, False]
    assert written["settings"] == {"times": 1}
    assert {"processor", "cores", "versions"} <= written["machine"].keys()
    text = (tmp_path / "drain.md").read_text()
    assert "**Stops**\n\n| signal | seconds |\n| --- | --: |\n| SIGTERM | 0.8 |\n" in text
    assert "| gone within 5 s | 7 s | missed |" in text
    assert written["date"][:10] in text


def test_a_table_has_a_cell_under_every_head() -> None:
    lines = table(("a", "b", "c"), [("1", "2", "3")], left=2).splitlines()
    assert lines[1] == "| --- | --- | --: |"
    assert len({line.count("|") for line in lines}) == 1
