"""Load on a service: at a constant rate, whatever it answers, or always busy."""

import asyncio
import math
import resource
import time
from collections import Counter
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import uvloop

from bench.common.client import Call, Client, Outcome

Result = TypeVar("Result")

# Requests that are due within it go out together: waking up costs more than they do, and uvloop
# turns shorter sleeps into none at all.
_TICK_S = 0.002


@dataclass(frozen=True, kw_only=True)
class Load:
    """Requests that were sent, what became of them, and what they cost the client."""

    outcomes: Sequence[Outcome]
    elapsed_s: float
    """From the first request to the last answer."""
    client_cpu_s: float

    def count(self, kind: str | None = None) -> Counter[str]:
        """Outcomes by result, of one kind of request or all."""
        return Counter(each.result for each in self.outcomes if kind in (None, each.kind))

    def latencies_s(self, result: str = "200") -> list[float]:
        """Seconds from writing a request to having its answer, sorted."""
        return sorted(each.seconds for each in self.outcomes if each.result == result)

    def goodput(self, deadline_s: float = math.inf) -> float:
        """Answers 200 within the deadline, a second."""
        good = sum(each.result == "200" and each.seconds <= deadline_s for each in self.outcomes)
        return good / self.elapsed_s

    @property
    def client_cores(self) -> float:
        """CPU time of this process, which shares the machine with the service, a second."""
        return self.client_cpu_s / self.elapsed_s


async def offer(
    client: Client, calls: Iterator[Call], *, rate: float, count: int, timeout_s: float = 30
) -> Load:
    """Send `count` requests at `rate` a second: open loop, so that a slow service gets no mercy.

    Hangs up at the end, `timeout_s` after the last request at the latest.
    """
    sent, started_s, cpu_s = 0, time.perf_counter(), time.process_time()
    while sent < count:
        now_s = time.perf_counter()
        while sent < count and started_s + sent / rate <= now_s:
            sent += 1
            client.send(next(calls))
        await asyncio.sleep(max(_TICK_S, started_s + sent / rate - time.perf_counter()))
    await client.finish(timeout_s)
    return _load(client, started_s, cpu_s)


async def keep_busy(
    client: Client,
    calls: Iterator[Call],
    *,
    connections: int,
    seconds: float = math.inf,
    count: float = math.inf,
    stop: asyncio.Event | None = None,
) -> Load:
    """Keep `connections` requests under way, for so long, or so many, or until `stop` is set."""
    started_s, cpu_s = time.perf_counter(), time.process_time()
    loop, end, sent = asyncio.get_running_loop(), stop or asyncio.Event(), 0

    def send_next() -> None:
        nonlocal sent
        if sent < count and time.perf_counter() - started_s < seconds and not end.is_set():
            sent += 1
            client.send(next(calls))
        else:
            end.set()

    # In the next turn of the loop, lest a failure at once leads to the next one for ever.
    client.on_answer = lambda: loop.call_soon(send_next)
    for _ in range(connections):
        send_next()
    with suppress(TimeoutError):
        await asyncio.wait_for(end.wait(), None if math.isinf(seconds) else seconds)
    end.set()
    client.on_answer = lambda: None
    await client.finish()
    return _load(client, started_s, cpu_s)


def run(main: Coroutine[Any, Any, Result]) -> Result:
    """Run a coroutine on uvloop, with as many open files as are allowed."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return uvloop.run(main)


def _load(client: Client, started_s: float, cpu_s: float) -> Load:
    last_s = max((each.sent_s + each.seconds for each in client.outcomes), default=started_s)
    return Load(
        outcomes=tuple(client.outcomes),
        elapsed_s=max(last_s - started_s, 1e-9),
        client_cpu_s=time.process_time() - cpu_s,
    )
