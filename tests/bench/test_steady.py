"""The pure parts of `python -m bench.steady`: what it counts, and how it judges."""

import asyncio
import itertools
import json
import os
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.steadiness import kernel
from bench.steadiness.calls import http_request
from bench.steadiness.client import LEFT, Call, Client, Outcome, parse_answer
from bench.steadiness.drain import sort_out
from bench.steadiness.load import Load, keep_busy, offer, percentile
from bench.steadiness.memory import mixed_calls, stray_calls
from bench.steadiness.nginx import Balancer, configuration
from bench.steadiness.overload import refusal_cpu_us
from bench.steadiness.profile import by_kind, profiled
from bench.steadiness.report import Report, spread
from bench.steadiness.service import Metrics
from bench.steadiness.step import Step
from bench.steadiness.wrk import parse
from bench.steady import COMMANDS

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
SHED = (
    b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\nconnection: close\r\n"
    b'content-length: 22\r\n\r\n{"code": "overloaded"}'
)


def test_an_answer_is_understood_only_once_it_is_complete() -> None:
    for end in range(len(OK)):
        assert parse_answer(OK[:end]) is None
    assert parse_answer(OK) == (len(OK), "200", True, False)
    assert parse_answer(SHED) == (len(SHED), "503 overloaded", False, True)


def test_an_answer_of_unknown_length_is_not_guessed_at() -> None:
    with pytest.raises(ValueError, match="not understood"):
        parse_answer(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")


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


def test_what_the_accepted_do_not_take_is_the_refusals() -> None:
    def step(accepted: int, refused: int, *, cores: float) -> Step:
        results = ["200"] * accepted + ["503 deadline"] * refused
        outcomes = [Outcome("/predict", 0.0, 0.01, result) for result in results]
        return Step(Load(outcomes=outcomes, elapsed_s=2.0, client_cpu_s=0.1), cores, 0.0, [])

    # 2 ms of CPU each at the peak; then 0.8 s of 2.8 are left for 4,000 refusals.
    peak, heavy = step(1600, 0, cores=1.6), step(1000, 4000, cores=1.4)
    assert refusal_cpu_us(peak, heavy) == pytest.approx(200)


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
    load = await offer(Client(kernel.free_port()), calls(), rate=1000, count=3)
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


def test_the_kernel_names_the_clients_of_a_process() -> None:
    table = (
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout"
        " inode\n"
        "   0: 0100007F:0BB8 00000000:0000 0A 0:0 00:0 0 0 0 11 1\n"
        "   1: 0100007F:0BB8 0100007F:C350 01 0:0 00:0 0 0 0 12 1\n"
        "   2: 0100007F:0BB8 0100007F:C351 01 0:0 00:0 0 0 0 13 1\n"
        "   3: 0100007F:0BB8 0100007F:C352 08 0:0 00:0 0 0 0 12 1\n"
    )
    assert kernel.remote_ports(table, {"11", "12"}) == {0xC350}


def test_reports_of_wrk_are_read_with_their_failures() -> None:
    text = (
        "  1200 requests in 3.00s, 1.00MB read\n"
        "  Socket errors: connect 1, read 2, write 0, timeout 3\n"
        "  Non-2xx or 3xx responses: 7\nRequests/sec:    400.50\nTransfer/sec: 1.00KB\n"
    )
    assert parse(text).requests_a_second == 400.5
    assert parse(text).failed == 13
    assert parse("Requests/sec: 1.00\n").failed == 0
    with pytest.raises(ValueError, match="not a report"):
        parse("unable to connect")


def test_metrics_are_summed_over_the_labels_that_were_not_asked_for() -> None:
    metrics = Metrics(
        "# TYPE limelight_requests counter\n"
        'limelight_requests_total{route="/predict",code="200"} 3\n'
        'limelight_requests_total{route="/predict",code="503"} 4\n'
        'limelight_requests_total{route="/explain",code="200"} 5\n'
    )
    assert metrics.sum("limelight_requests_total", route="/predict") == 7
    assert metrics.sum("limelight_requests_total", code="200") == 8
    assert len(metrics) == 3


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


def test_nginx_repeats_no_request_beyond_its_defaults() -> None:
    text = configuration(Path("/folder"), 80, [81, 82], 800)
    directives = {line.split()[0] for line in text.splitlines() if line.strip()}
    assert "proxy_next_upstream" not in directives
    assert "server 127.0.0.1:81 max_fails=0;" in text
    assert "server 127.0.0.1:82 max_fails=0;" in text
    assert "keepalive_timeout 800ms;" in text


def test_errors_of_nginx_are_counted_but_for_refused_connections(tmp_path: Path) -> None:
    log = tmp_path / "error.log"
    log.write_text(
        "2026/11/21 [info] 1#1: *1 client closed connection, client: 127.0.0.1\n"
        "2026/11/21 [error] 1#1: *2 connect() failed (111: Connection refused) while, client: x\n"
        "2026/11/21 [error] 1#1: *3 upstream prematurely closed connection, client: 127.0.0.1\n"
        "2026/11/21 [error] 1#1: *9 upstream prematurely closed connection, client: 127.0.0.1\n"
    )
    assert Balancer(1, log).errors() == {"upstream prematurely closed connection": 2}


def test_one_missed_aim_fails_the_command_and_is_written(tmp_path: Path) -> None:
    report = Report("drain", {"times": 1})
    report.judge("exit status 0", "[0]", True)
    assert report.finish(tmp_path) == 0
    report.judge("gone within 5 s", "7 s", False)
    assert report.finish(tmp_path) == 1
    written = json.loads((tmp_path / "steady-drain.json").read_text())
    assert [verdict["reached"] for verdict in written["verdicts"]] == [True, False]
    assert written["settings"] == {"times": 1}
    assert {"processor", "cores", "versions"} <= written["machine"].keys()
    assert "date" in written


def test_a_spread_names_median_smallest_and_largest() -> None:
    assert spread([3.0, 1.0, 2.0]) == "2 (1 to 3)"
    assert spread([1.0, 2.0], 1) == "1.5 (1.0 to 2.0)"


def test_every_command_says_what_it_measures() -> None:
    assert all(command.__doc__ for command in COMMANDS.values())


def test_a_profile_is_sorted_by_kind_of_code() -> None:
    report = """
    60.50%  onnxruntime_pybind11_state.so
    20.25%  [kernel.kallsyms]
    10.00%  python3.11
     5.00%  loop.cpython-311-x86_64-linux-gnu.so
     4.25%  [guest.kernel.kallsyms]

"""
    assert by_kind(report) == pytest.approx(
        {"ONNX Runtime": 0.605, "kernel": 0.245, "Python": 0.15}
    )


def test_without_perf_there_is_no_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with profiled([os.getpid()]) as shares:
        pass
    assert not shares
