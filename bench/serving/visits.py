"""One visit: a server is started, loaded in every way that the run asks for, and stopped."""

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.serving import ceiling, load, servers
from bench.serving.contestants import Contestant, Entry, Place, variables
from bench.serving.environments import Environment
from bench.serving.load import Load, NothingAnsweredError
from bench.serving.results import Measurement, ProcessMemory, Visit
from bench.serving.scrape import Samples
from bench.serving.servers import Question, Server
from bench.serving.workloads import Workload, surest
from service.telemetry.metrics import FLUSH_S

WARM_UP_S = 1.0
# By then each worker of ours has counted what it has observed.
_COUNTED_S = FLUSH_S + 0.5


@dataclass(frozen=True, slots=True)
class Images:
    """A workload's bodies, and which of them shows whether a server answers right."""

    workload: Workload
    bodies: Sequence[bytes]
    surest: int
    label: str

    @classmethod
    def of(cls, workload: Workload) -> "Images":
        """Generate them, and ask the network itself."""
        bodies = workload.bodies()
        return cls(workload, bodies, *surest(workload))


@dataclass(frozen=True, slots=True)
class Target:
    """A contestant of a running server under one workload, ready to be loaded."""

    contestant: Contestant
    images: Images
    script: Path
    question: Question

    @classmethod
    def of(cls, contestant: Contestant, images: Images, folder: Path) -> "Target":
        """Write wrk's script into `folder`."""
        workload = images.workload
        path = contestant.path.format(model=workload.model)
        encoded = [contestant.encode(body, workload) for body in images.bodies]
        headers = encoded[0][1]
        script = load.write_script(
            folder / f"post-{contestant.name}-{workload.name}",
            path=path,
            headers=headers,
            bodies=[body for body, _ in encoded],
        )
        body = encoded[images.surest][0]
        question = Question(path, headers, body, contestant.label, images.label)
        return cls(contestant, images, script, question)

    def warm_up(self, server: Server, *, connections: int) -> None:
        """Load that does not count; it also runs off what the last one left in the queues.

        Raises:
            LoadError: wrk failed, or nothing was answered.
        """
        load.run(self.script, port=server.port, connections=connections, seconds=WARM_UP_S)

    def run(self, server: Server, *, connections: int, seconds: float) -> Load:
        """Load that counts.

        Raises:
            LoadError: wrk failed, or nothing was answered.
        """
        return load.run(self.script, port=server.port, connections=connections, seconds=seconds)


@contextmanager
def started(
    entry: Entry,
    environment: Environment,
    model: str,
    added: Mapping[str, str] | None = None,
    *,
    device: str = "cpu",
) -> Iterator[tuple[Server, Path]]:
    """The entry's server on a free port, and an empty folder that lives as long."""
    with tempfile.TemporaryDirectory(prefix="limelight-bench-") as name:
        folder = Path(name)
        (port,) = servers.free_ports(1)
        place = Place(environment=environment, folder=folder / "server", port=port)
        place.folder.mkdir()
        with servers.running(
            entry.command(place),
            port=port,
            environment={
                **variables(entry, model=model, folder=folder, device=device),
                **(added or {}),
            },
            log=folder / "log",
            stop_signal=entry.stop_signal,
        ) as server:
            yield server, folder


def visit(
    entry: Entry,
    environment: Environment,
    images: Sequence[Images],
    *,
    connections: Sequence[int],
    seconds: float,
    repeat: int,
    record: Callable[[Measurement], None],
    failed: Callable[[str], None],
    device: str = "cpu",
) -> Visit:
    """Measure every contestant of one server under `images`, all of which are one model's.

    Each measurement goes to `record` as soon as it is made. Under a load that it answers nothing
    of, a contestant has failed, as `failed` is told: it is spared larger ones, and asked the next
    thing.

    Raises:
        ServerError: the server does not start, or answers wrong.
        LoadError: wrk failed.
    """
    model = images[0].workload.model
    probe_images_per_s = ceiling.probe()
    with started(entry, environment, model, device=device) as (server, folder):
        first_answer_s = None
        for contestant in entry.contestants[:: -1 if repeat % 2 else 1]:
            for each in images:
                if not contestant.fits(each.workload):
                    continue
                target = Target.of(contestant, each, folder)
                waited = server.wait(target.question)
                first_answer_s = waited if first_answer_s is None else first_answer_s
                for count in connections:
                    try:
                        measured = _measure(server, target, count, seconds=seconds, repeat=repeat)
                    except NothingAnsweredError as error:
                        failed(f"{each.workload.name} at {count} connections: {error}")
                        break
                    record(measured)
                    print(_line(measured), flush=True)
                server.wait(target.question)  # it still answers right
        processes = [ProcessMemory(**asdict(process)) for process in server.processes()]
    return Visit(
        entry=entry.name,
        contestants=[contestant.name for contestant in entry.contestants],
        model=model,
        repeat=repeat,
        first_answer_s=first_answer_s or 0.0,
        probe_images_per_s=probe_images_per_s,
        processes=processes,
    )


def _measure(
    server: Server, target: Target, connections: int, *, seconds: float, repeat: int
) -> Measurement:
    contestant = target.contestant
    target.warm_up(server, connections=connections)
    before = scrape(server) if contestant.batches else None
    measured = target.run(server, connections=connections, seconds=seconds)
    mean_batch = None
    if before is not None:
        grown = scrape(server).since(before)
        sizes = grown.histogram("limelight_batch_size", model=target.images.workload.model)
        mean_batch = sizes.mean if sizes else None
    return Measurement(
        contestant=contestant.name,
        workload=target.images.workload.name,
        connections=connections,
        repeat=repeat,
        requests_per_s=measured.requests_per_s,
        p50_ms=measured.p50_ms,
        p99_ms=measured.p99_ms,
        max_ms=measured.max_ms,
        errors=measured.errors,
        mean_batch=mean_batch,
        images=target.images.workload.batch,
    )


def scrape(server: Server) -> Samples:
    """What our server's /metrics say of all that went before."""
    time.sleep(_COUNTED_S)
    return Samples.parse(server.get("/metrics"))


def _line(measured: Measurement) -> str:
    failed = f"  FAILED: {measured.errors}" if measured.errors else ""
    return (
        f"  {measured.contestant:18} {measured.workload:13} {measured.connections:4} connections  "
        f"{measured.images_per_s:9.1f} images/s  p50 {measured.p50_ms:8.2f} ms  "
        f"p99 {measured.p99_ms:8.2f} ms{failed}"
    )
