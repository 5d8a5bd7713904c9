"""A soak: honest and hostile clients, workers killed at random; what grows, and what fails.

The oldest worker is spared, so that one can be watched from the beginning to the end.
"""

import argparse
import asyncio
import base64
import http.client
import json
import random
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from typing import Any

import grpc
import psutil  # type: ignore[import-untyped]

from bench.common.client import HOST, Call, Client, Outcome, http_request
from bench.common.load import run
from bench.common.report import Report
from bench.common.server import Question, Server, free_port, limelight
from bench.resilience.calls import CIFAR_PNG, DIGIT_PNG, PHOTO_JPEG
from bench.resilience.hostile import (
    GRPC_CLIENTS,
    HTTP_CLIENTS,
    annoy,
    hostile_calls,
    large_images,
)
from bench.resilience.soak_verdicts import OLDEST, OTHER, PARENT, Sample, Seen, add_to, judge
from service.oip.grpc.messages import SERVICE, message_class

_REPLACED_S = 30.0  # after which a killed worker counts as not replaced
_KILL_EVERY_S = 240.0
_HONEST, _GRPC, _HOSTILE = 30.0, 5.0, 8.0  # requests a second
_SAMPLE_EVERY_S = 5.0


class Soak:
    """One run: its clients, and what was seen."""

    def __init__(self, server: Server, grpc_port: int, seconds: float) -> None:
        self._server, self._grpc_port = server, grpc_port
        self._honest, self._hostile = Client(server.port), Client(server.port)
        self._started_s = time.perf_counter()
        self.seen = Seen(seconds)
        self.killed: set[int] = set()
        self.workers: set[int] = set()
        """Process ids of all workers that were seen."""

    @property
    def elapsed_s(self) -> float:
        return time.perf_counter() - self._started_s

    async def run(self, report: Report) -> None:
        """Run until the time is over."""
        self._started_s = time.perf_counter()
        tasks = [asyncio.create_task(each) for each in self._clients()]
        tasks += [asyncio.create_task(each()) for each in (self._sample, self._kill, self._scrape)]
        seen, reported_s = self.seen, 0.0
        while (left_s := seen.seconds - self.elapsed_s) > 0:
            await asyncio.sleep(min(seen.minute_s, left_s))
            self._collect()
            report.say(f"{self.elapsed_s:5.0f} s: {seen.summary(reported_s, self.elapsed_s)}")
            reported_s = self.elapsed_s
            if broken := [each for each in tasks if each.done()]:
                broken[0].result()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(self._honest.finish(), self._hostile.finish())
        self._collect()

    def _clients(self) -> list[Any]:
        rng, port = random.Random(0), self._server.port  # noqa: S311  # no secret
        annoying = [partial(annoy, each, port) for each in HTTP_CLIENTS * 3]
        annoying += [partial(annoy, each, self._grpc_port) for each in GRPC_CLIENTS * 3]
        return [
            *(each(random.Random(at)) for at, each in enumerate(annoying)),  # noqa: S311
            _send(self._honest, honest_calls(rng), _HONEST),
            _send(self._hostile, hostile_calls(rng), _HOSTILE),
            self._call_grpc(),
        ]

    def _collect(self) -> None:
        """Take over the outcomes of the clients, so that they keep nothing."""
        honest, self._honest.outcomes = self._honest.outcomes, []
        hostile, self._hostile.outcomes = self._hostile.outcomes, []
        self.seen.honest += [each._replace(sent_s=each.sent_s - self._started_s) for each in honest]
        self.seen.hostile += Counter(f"{each.kind}: {each.result}" for each in hostile)

    async def _call_grpc(self) -> None:
        message = _grpc_message()
        # Its own connection for each few calls, so that every worker gets some.
        options = [("grpc.use_local_subchannel_pool", 1)]
        while True:
            address = f"{HOST}:{self._grpc_port}"
            async with grpc.aio.insecure_channel(address, options=options) as channel:
                infer = channel.unary_unary(f"/{SERVICE}/ModelInfer")
                for _ in range(10):
                    sent_s, result = time.perf_counter(), "200"
                    try:
                        await infer(message, timeout=10)
                    except grpc.aio.AioRpcError as error:
                        result = error.code().name
                    seconds = time.perf_counter() - sent_s
                    self._honest.outcomes.append(Outcome("grpc", sent_s, seconds, result))
                    await asyncio.sleep(1 / _GRPC)

    async def _sample(self) -> None:
        while True:
            at_s = self.elapsed_s
            workers = sorted(self._server.workers(), key=lambda each: each.create_time())
            roles = {each.pid: OTHER if at else OLDEST for at, each in enumerate(workers)}
            roles[self._server.pid] = PARENT
            self.workers |= {each.pid for each in workers}
            for process in self._server.family():
                with suppress(psutil.NoSuchProcess), process.oneshot():
                    role = roles.get(process.pid, "helper")
                    memory_mb = process.memory_full_info().pss / 1e6
                    counts = process.num_fds(), process.num_threads()
                    self.seen.samples.append(Sample(at_s, role, process.pid, memory_mb, *counts))
            await asyncio.sleep(min(_SAMPLE_EVERY_S, self.seen.seconds / 100))

    async def _scrape(self) -> None:
        question = Question("/metrics", lambda body: str(body.count(b"\n")), "")
        while True:
            await asyncio.sleep(self.seen.minute_s / 2)
            with suppress(OSError, http.client.HTTPException, ValueError):
                lines = int(await asyncio.to_thread(self._server.ask, question))
                self.seen.metrics_lines.append((self.elapsed_s, lines))

    async def _kill(self) -> None:
        rng = random.Random(1)  # noqa: S311  # no secret
        while True:
            await asyncio.sleep(min(_KILL_EVERY_S, self.seen.seconds / 3) * rng.uniform(0.5, 1.5))
            workers = sorted(self._server.workers(), key=lambda each: each.create_time())
            if len(workers) > 1:
                victim = rng.choice(workers[1:])
                self.seen.kills_s.append(self.elapsed_s)
                self.killed.add(victim.pid)
                victim.kill()


def measure(arguments: argparse.Namespace, report: Report) -> None:
    """Run for `--minutes`, two workers and gRPC, and judge."""
    grpc_port, seconds = free_port(), arguments.minutes * 60
    large_images()  # which take seconds
    settings = {"LIMELIGHT_WORKERS": "2", "LIMELIGHT_GRPC_PORT": str(grpc_port)}
    with limelight(settings) as server:
        soak = Soak(server, grpc_port, seconds)
        run(soak.run(report))
        deadline_s = time.perf_counter() + _REPLACED_S
        while len(server.workers()) < 2 and time.perf_counter() < deadline_s:
            time.sleep(0.1)
        left = {each.pid for each in server.workers()}
    died = soak.workers - soak.killed - left
    add_to(report, soak.seen)
    judge(report, soak.seen, died=died, workers=len(left))


def honest_calls(rng: random.Random) -> Iterator[Call]:
    """Requests that have to be answered, for ever: predictions, explanations, OIP, pages."""
    post, get, cifar = partial(http_request, "POST"), partial(http_request, "GET"), "?model=cifar10"
    bodies = {"cifar10": CIFAR_PNG, "digits": DIGIT_PNG}
    infer = {
        name: post(f"/v2/models/{name}/infer", _infer_json(body)) for name, body in bodies.items()
    }
    weighted = [
        (30, Call("predict", post(f"/predict{cifar}", CIFAR_PNG))),
        (20, Call("predict", post("/predict?model=digits", DIGIT_PNG))),
        (10, Call("predict JPEG", post(f"/predict{cifar}", PHOTO_JPEG))),
        (10, Call("explain", post(f"/explain{cifar}", CIFAR_PNG))),
        (3, Call("explain PNG", post(f"/explain{cifar}&format=png", PHOTO_JPEG))),
        (2, Call("explain", post(f"/explain{cifar}&method=layercam", PHOTO_JPEG))),
        (10, Call("OIP", infer["cifar10"])),
        (10, Call("OIP", infer["digits"])),
        (2, Call("page", get("/"))),
        (1, Call("page", get("/models"))),
        (1, Call("metrics", get("/metrics"))),
        (1, Call("readyz", get("/readyz"))),
    ]
    weights, calls = [weight for weight, _ in weighted], [call for _, call in weighted]
    while True:
        yield rng.choices(calls, weights)[0]


def _infer_json(image: bytes) -> bytes:
    tensor = {"name": "image_bytes", "datatype": "BYTES", "shape": [1, 1]}
    return json.dumps({"inputs": [tensor | {"data": [base64.b64encode(image).decode()]}]}).encode()


def _grpc_message() -> bytes:
    request = message_class("ModelInferRequest")(model_name="cifar10")
    tensor = request.inputs.add(name="image_bytes", datatype="BYTES", shape=[1, 1])
    tensor.contents.bytes_contents.append(CIFAR_PNG)
    return bytes(request.SerializeToString())


async def _send(client: Client, calls: Iterator[Call], rate: float) -> None:
    while True:
        client.send(next(calls))
        await asyncio.sleep(1 / rate)
