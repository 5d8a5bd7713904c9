"""Memory of each worker, and the size of /metrics, over many requests of every kind."""

import argparse
import io
import random
import time
from collections import Counter
from collections.abc import Iterator

from PIL import Image

from bench.steadiness import kernel
from bench.steadiness.calls import cifar_png, digit_png, http_request, photo_jpeg
from bench.steadiness.client import Call
from bench.steadiness.load import Load
from bench.steadiness.report import Report
from bench.steadiness.service import Service, running
from bench.steadiness.step import busy

_MOST_CHANGE = 0.05
_MAX_BYTES = 1_000_000  # of a body; smaller than by default, so that many can be too large
_RANDOM_PATHS = 2_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this command."""
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--warm-up", type=int, default=5_000, help="requests before the first look")
    parser.add_argument("--looks", type=int, default=10)
    parser.add_argument("--connections", type=int, default=32)


def measure(arguments: argparse.Namespace, report: Report) -> None:
    """Look at the memory after the warm-up, ten times on the way, and at the end."""
    rng = random.Random(0)  # noqa: S311  # no secret
    with running({"LIMELIGHT_MAX_BYTES": str(_MAX_BYTES)}) as [service]:
        calls = mixed_calls(rng)
        _busy(service, calls, arguments.connections, arguments.warm_up)
        looks = [_resident(service)]
        report.say(f"after {arguments.warm_up} requests: {_megabytes(looks[0])} MB")
        answers: Counter[str] = Counter()
        for look in range(arguments.looks):
            count = arguments.requests // arguments.looks
            load = _busy(service, calls, arguments.connections, count)
            answers += Counter(f"{each.kind}: {each.result}" for each in load.outcomes)
            looks.append(_resident(service))
            report.say(f"and {(look + 1) * count}: {_megabytes(looks[-1])} MB")
        for answer, count in sorted(answers.items()):
            report.say(f"  {count:7} {answer}")
        report.measurements |= {
            "resident_bytes": looks,
            "answers": dict(answers),
        }
        _judge(report, looks, answers)
        _judge_paths(service, rng, arguments, report)


def _judge(report: Report, looks: list[dict[int, int]], answers: Counter[str]) -> None:
    first, last = looks[0], looks[-1]
    changes = {pid: last[pid] / first[pid] - 1 if pid in last else 1.0 for pid in first}
    report.judge(
        f"memory of each worker is flat (within 5 %) over {answers.total()} mixed requests",
        ", ".join(f"{change:+.1%}" for change in changes.values()),
        first.keys() == last.keys()
        and all(abs(change) <= _MOST_CHANGE for change in changes.values()),
    )
    failed = {answer: count for answer, count in answers.items() if ": 5" in answer}
    report.judge("no request of them fails in the service", f"{failed}", not failed)


def _judge_paths(
    service: Service, rng: random.Random, arguments: argparse.Namespace, report: Report
) -> None:
    before = service.metrics()
    _busy(service, stray_calls(rng), arguments.connections, _RANDOM_PATHS)
    after = service.metrics()
    report.measurements["metrics"] = {
        "samples": [len(before), len(after)],
        "bytes": [before.bytes, after.bytes],
    }
    report.judge(
        f"/metrics does not grow with {_RANDOM_PATHS} random paths, models and methods",
        f"{len(before)} samples before and {len(after)} after, {before.bytes} and {after.bytes} "
        "bytes",
        len(after) == len(before),
    )


def mixed_calls(rng: random.Random) -> Iterator[Call]:
    """Requests of every kind, most of them predictions, for ever."""
    stray = stray_calls(rng)
    large = bytes(_MAX_BYTES + 100_000)
    photo = photo_jpeg()
    post = http_request
    cifar, digits = "?model=cifar10", "?model=digits"
    fixed = {
        "predict cifar10": (30, Call("predict", post("POST", f"/predict{cifar}", cifar_png()))),
        "predict digits": (25, Call("predict", post("POST", f"/predict{digits}", digit_png()))),
        "predict photo": (5, Call("predict", post("POST", f"/predict{cifar}", photo))),
        "explain json": (9, Call("explain", post("POST", f"/explain{cifar}", cifar_png()))),
        "explain png": (
            4,
            Call("explain png", post("POST", f"/explain{cifar}&format=png", cifar_png())),
        ),
        "explain photo png": (
            1,
            Call("explain png", post("POST", f"/explain{cifar}&format=png", photo)),
        ),
        "not an image": (4, Call("bad image", post("POST", "/predict", b"not an image"))),
        "cut image": (4, Call("bad image", post("POST", "/predict", photo[: len(photo) // 2]))),
        "too many pixels": (1, Call("bad image", post("POST", "/predict", _bomb()))),
        "too large": (1, Call("too large", post("POST", "/predict", large))),
        "metrics": (1, Call("other", post("GET", "/metrics"))),
        "models": (1, Call("other", post("GET", "/models"))),
        # Hangs up with the whole request sent, at once or in the queue; or in the middle of it.
        "leaves": (5, Call("leaves", post("POST", f"/predict{cifar}", cifar_png()), 0.005)),
        "leaves early": (
            2,
            Call("leaves early", post("POST", f"/predict{cifar}", photo)[:-1000], 0.005),
        ),
    }
    weights = [weight for weight, _ in fixed.values()]
    calls = [call for _, call in fixed.values()]
    while True:
        yield next(stray) if rng.random() < 0.08 else rng.choices(calls, weights)[0]


def stray_calls(rng: random.Random) -> Iterator[Call]:
    """Paths, models, versions and methods that nobody has, for ever; no two alike."""
    while True:
        name = f"{rng.getrandbits(64):x}"
        method, target, body = rng.choice(
            [
                ("GET", f"/{name}", b""),
                ("POST", f"/predict/{name}", b"x"),
                ("GET", f"/models/{name}", b""),
                ("POST", f"/predict?model={name}", digit_png()),
                (name[:6].upper(), "/predict", b""),
            ]
        )
        yield Call("stray", http_request(method, target, body))


def _bomb() -> bytes:
    stream = io.BytesIO()
    Image.new("1", (8_000, 8_000)).save(stream, "PNG")
    return stream.getvalue()


def _busy(service: Service, calls: Iterator[Call], connections: int, count: int) -> Load:
    load = busy(service, calls, connections=connections, count=count).load
    # What was begun for clients that left may still run.
    time.sleep(1)
    return load


def _resident(service: Service) -> dict[int, int]:
    return {pid: kernel.resident_bytes(pid) for pid in service.workers()}


def _megabytes(look: dict[int, int]) -> list[float]:
    return [round(value / 1e6, 1) for value in look.values()]
