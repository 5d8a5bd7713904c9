"""Send hostile inputs to a running service, and see what it answers and what it spends."""

import re
import selectors
import socket
import struct
import time
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field

import grpc
import psutil  # type: ignore[import-untyped]

from service.oip.grpc.messages import SERVICE
from tests.long.hostile.inputs import HTTP_OK, SHED, HttpInput
from tests.long.hostile.limits import proportional_bytes, workers
from tests.long.hostile.open_inference import GrpcInput

# Beyond the service's own limit of 10 s for a request and for a head.
MOST_S = 13.0
MOST_CPU_S = 2.0
# Processor time of other requests meanwhile, and the resolution of the measurement.
_OTHER_CPU, _SLACK_S = 0.15, 0.3
_DEAF_S = 3.0
_STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) ")
_HONEST_CODES = frozenset(
    ("OK", "INVALID_ARGUMENT", "NOT_FOUND", "UNIMPLEMENTED", "RESOURCE_EXHAUSTED", "UNAVAILABLE")
)


@dataclass(frozen=True)
class Target:
    """Service under attack on loopback."""

    port: int
    parent: int
    grpc_port: int | None = None

    def cpu_s(self) -> float:
        """Return the processor time of the workers so far."""
        total = 0.0
        for process in workers(self.parent):
            with suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                total += times.user + times.system
        return total

    def idle_cpu_s(self, patience_s: float = 20) -> float:
        """Wait until the workers do little more; return their processor time."""
        end_s, before = time.monotonic() + patience_s, self.cpu_s()
        while time.monotonic() < end_s:
            time.sleep(0.1)
            now = self.cpu_s()
            if now - before < 0.05:
                break
            before = now
        return self.cpu_s()


@dataclass
class Result:
    """Answers to one input: HTTP statuses, names of gRPC codes, or "closed"."""

    hostile: HttpInput | GrpcInput
    answers: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    cpu_s: float = 0.0
    total_s: float = 0.0
    """Time until the workers were idle again."""
    memory_bytes: int = 0
    """Memory of the service then."""

    def problems(self) -> list[str]:
        """Name what is not honest, or takes too long."""
        found = [f"answered {each}" for each in self.answers if not self._is_honest(each)]
        if not self.answers:
            found.append("no answer")
        if self.seconds > MOST_S:
            found.append(f"took {self.seconds:.1f} s")
        requests = self.hostile.requests if isinstance(self.hostile, HttpInput) else 1
        limit_s = MOST_CPU_S + 0.005 * (requests - 1) + _OTHER_CPU * self.total_s + _SLACK_S
        if self.cpu_s > limit_s:
            found.append(f"took {self.cpu_s:.1f} s of processor time")
        return found

    def _is_honest(self, answer: str) -> bool:
        if isinstance(self.hostile, GrpcInput):
            return answer in _HONEST_CODES
        if answer in ("closed", "reset", "deaf"):
            return self.hostile.silent or self.hostile.end == "deaf"
        if int(answer) in SHED:
            return self.hostile.allowed != HTTP_OK
        return int(answer) in self.hostile.allowed


def attack(target: Target, hostile: HttpInput | GrpcInput) -> Result:
    """Send one input; return what was answered and spent. The workers have to be idle before."""
    result = Result(hostile)
    payload = hostile.make()
    before_s, started_s = target.cpu_s(), time.monotonic()
    if isinstance(hostile, GrpcInput):
        result.answers[_call(target, hostile, payload)] += 1  # type: ignore[arg-type]
    else:
        result.answers += _exchange(target.port, hostile, payload)  # type: ignore[arg-type]
    result.seconds = time.monotonic() - started_s
    result.cpu_s = target.idle_cpu_s() - before_s
    result.total_s = time.monotonic() - started_s
    result.memory_bytes = proportional_bytes(target.parent)
    return result


def _exchange(port: int, hostile: HttpInput, payload: bytes) -> Counter[str]:
    """Write the bytes and read the answers at the same time."""
    link = socket.create_connection(("127.0.0.1", port))
    link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    link.setblocking(False)
    deaf = hostile.end == "deaf"
    end_s = time.monotonic() + (_DEAF_S if deaf else MOST_S + 2)
    answers: Counter[str] = Counter()
    left, tail = memoryview(payload), b""
    reads = 0 if deaf else selectors.EVENT_READ
    with link, selectors.DefaultSelector() as waiting:
        waiting.register(link, reads | selectors.EVENT_WRITE)
        while time.monotonic() < end_s:
            for _, events in waiting.select(0.2):
                if events & selectors.EVENT_WRITE:
                    try:
                        left = left[link.send(left[: 1 << 20]) :] if left else left
                    except OSError:  # the service has closed; its answer may be here
                        left = left[:0]
                    if not left and deaf:
                        time.sleep(_DEAF_S)
                        return Counter({"deaf": 1})
                    if not left:
                        waiting.modify(link, reads)
                        if hostile.end == "half":
                            with suppress(OSError):
                                link.shutdown(socket.SHUT_WR)
                if events & selectors.EVENT_READ:
                    try:
                        received = link.recv(1 << 20)
                    except OSError:
                        return answers or Counter({"reset": 1})
                    if not received:
                        return answers or Counter({"closed": 1})
                    answers += _statuses(tail + received)
                    tail = b"" if _STATUS.search(tail + received) else received[-12:]
            if hostile.end == "stay" and answers:
                return answers
    return Counter({"deaf": 1}) if deaf else answers


def _statuses(received: bytes) -> Counter[str]:
    return Counter(each.decode() for each in _STATUS.findall(received) if each >= b"200")


def _call(target: Target, hostile: GrpcInput, messages: list[bytes]) -> str:
    options = [
        ("grpc.max_receive_message_length", -1),
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.enable_retries", 0),
    ]
    with grpc.insecure_channel(f"127.0.0.1:{target.grpc_port}", options=options) as channel:
        path = f"/{SERVICE}/{hostile.method}"
        try:
            if hostile.method == "ModelStreamInfer":
                for _ in channel.stream_stream(path)(iter(messages), timeout=MOST_S):
                    pass
            else:
                channel.unary_unary(path)(messages[0], timeout=MOST_S)
        except grpc.RpcError as error:
            return str(error.code().name)
    return "OK"


def table(results: Iterable[Result]) -> str:
    """Return the results by kind, as a Markdown table."""
    kinds: dict[str, list[Result]] = {}
    for result in results:
        kinds.setdefault(result.hostile.kind, []).append(result)
    heads = "kind | inputs | answers | slowest | most processor time | memory afterwards"
    lines = [f"| {heads} |", "|---|--:|---|--:|--:|--:|"]
    for kind, found in kinds.items():
        answers: Counter[str] = sum((each.answers for each in found), Counter())
        shown = ", ".join(f"{count} x {name}" for name, count in answers.most_common())
        slowest, most = max(each.seconds for each in found), max(each.cpu_s for each in found)
        memory_mb = found[-1].memory_bytes / 1e6
        figures = f"{slowest:.1f} s | {most:.1f} s | {memory_mb:.0f} MB"
        lines.append(f"| {kind} | {len(found)} | {shown} | {figures} |")
    return "\n".join(lines)
