"""Memory of each worker, and the size of /metrics, over many requests of every kind."""

import argparse
import io
import random
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial

from PIL import Image

from bench.common.client import Call, Client, http_request
from bench.common.load import Load, keep_busy, run
from bench.common.report import Report
from bench.common.server import Question, Server, limelight
from bench.resilience.calls import CIFAR_PNG, DIGIT_PNG, PHOTO_JPEG

_MOST_CHANGE = 0.05
_MAX_BYTES = 1_000_000  # of a body; smaller than by default, so that many can be too large
_RANDOM_PATHS = 2_000
_WARM_UP = 5_000  # requests before the first look
_LOOKS = 10
_CONNECTIONS = 32


def measure(arguments: argparse.Namespace, report: Report) -> None:
    """Look at the memory after a warm-up, ten times on the way, and at the end."""
    rng = random.Random(0)  # noqa: S311  # no secret
    calls, count = mixed_calls(rng), arguments.requests // _LOOKS
    answers: Counter[str] = Counter()
    with limelight({"LIMELIGHT_MAX_BYTES": str(_MAX_BYTES)}) as server:
        _busy(server, calls, _WARM_UP)
        looks = [_resident(server)]
        for _ in range(_LOOKS):
            load = _busy(server, calls, count)
            answers += Counter(f"{each.kind}: {each.result}" for each in load.outcomes)
            looks.append(_resident(server))
            megabytes = [round(value / 1e6, 1) for value in looks[-1].values()]
            report.say(f"after {answers.total()} requests: {megabytes} MB")
        before = _samples(server)
        _busy(server, stray_calls(rng), _RANDOM_PATHS)
        after = _samples(server)
    report.measurements |= {"resident_bytes": looks, "answers": dict(answers)}
    judge(report, looks[0], looks[-1], answers)
    target = f"/metrics does not grow with {_RANDOM_PATHS} random paths, models and methods"
    report.judge(target, f"{before} samples before and {after} after", after == before)


def judge(
    report: Report, first: dict[int, int], last: dict[int, int], answers: Counter[str]
) -> None:
    """Compare memory by worker, and the answers, with the targets."""
    changes = [last[pid] / first[pid] - 1 if pid in last else 1.0 for pid in first]
    target = f"memory of each worker is flat (within 5 %) over {answers.total()} mixed requests"
    measured = ", ".join(f"{change:+.1%}" for change in changes)
    flat = all(abs(change) <= _MOST_CHANGE for change in changes)
    report.judge(target, measured, flat and first.keys() == last.keys())
    failed = {answer: count for answer, count in answers.items() if ": 5" in answer}
    report.judge("no request of them fails in the service", f"{failed}", not failed)


def mixed_calls(rng: random.Random) -> Iterator[Call]:
    """Requests of every kind, most of them predictions, for ever."""
    stray, post = stray_calls(rng), partial(http_request, "POST")
    photo, small = PHOTO_JPEG, CIFAR_PNG
    cifar = "?model=cifar10"
    weighted = [
        (30, Call("predict", post(f"/predict{cifar}", small))),
        (25, Call("predict", post("/predict?model=digits", DIGIT_PNG))),
        (5, Call("predict", post(f"/predict{cifar}", photo))),
        (9, Call("explain", post(f"/explain{cifar}", small))),
        (4, Call("explain png", post(f"/explain{cifar}&format=png", small))),
        (1, Call("explain png", post(f"/explain{cifar}&format=png", photo))),
        (4, Call("bad image", post("/predict", b"not an image"))),
        (4, Call("bad image", post("/predict", photo[: len(photo) // 2]))),
        (1, Call("bad image", post("/predict", _bomb()))),
        (1, Call("too large", post("/predict", bytes(_MAX_BYTES + 100_000)))),
        (1, Call("other", http_request("GET", "/metrics"))),
        (1, Call("other", http_request("GET", "/models"))),
        # Hangs up with the whole request sent, at once or in the queue; or in the middle of it.
        (5, Call("leaves", post(f"/predict{cifar}", small), 0.005)),
        (2, Call("leaves early", post(f"/predict{cifar}", photo)[:-1000], 0.005)),
    ]
    weights, calls = [weight for weight, _ in weighted], [call for _, call in weighted]
    while True:
        yield next(stray) if rng.random() < 0.08 else rng.choices(calls, weights)[0]


def stray_calls(rng: random.Random) -> Iterator[Call]:
    """Paths, models, versions and methods that nobody has, for ever; no two alike."""
    while True:
        name = f"{rng.getrandbits(64):x}"
        kinds = [
            ("GET", f"/{name}", b""),
            ("POST", f"/predict/{name}", b"x"),
            ("GET", f"/models/{name}", b""),
            ("POST", f"/predict?model={name}", DIGIT_PNG),
            (name[:6].upper(), "/predict", b""),
        ]
        yield Call("stray", http_request(*rng.choice(kinds)))


def _bomb() -> bytes:
    stream = io.BytesIO()
    Image.new("1", (8_000, 8_000)).save(stream, "PNG")
    return stream.getvalue()


def _samples(server: Server) -> int:
    lines = server.ask(Question("/metrics", bytes.decode, "")).splitlines()
    return sum(not line.startswith("#") for line in lines)


def _busy(server: Server, calls: Iterator[Call], count: int) -> Load:
    load = run(keep_busy(Client(server.port), calls, connections=_CONNECTIONS, count=count))
    # Work that was begun for clients that left may still run.
    time.sleep(1)
    return load


def _resident(server: Server) -> dict[int, int]:
    return {worker.pid: worker.memory_info().rss for worker in server.workers()}
