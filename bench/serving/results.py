"""What a run of the benchmark measured, as it stands in the JSON file."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Machine(_Record):
    """Where it ran."""

    cpu: str
    cores: int
    memory_gb: float
    kernel: str
    python: str
    wrk: str
    gpu: str | None = None
    """Where the networks ran, if not on the processor."""


class Participant(_Record):
    """A contestant as it took part; `failure` says why it could not, or not every time."""

    name: str
    title: str
    ours: bool
    setup: str
    versions: dict[str, str]
    failure: str | None = None


class Measurement(_Record):
    """One load on one contestant. `errors` counts what wrk saw fail, by kind."""

    contestant: str
    workload: str
    connections: int
    repeat: int
    requests_per_s: float
    p50_ms: float
    p99_ms: float
    max_ms: float
    errors: dict[str, int]
    mean_batch: float | None = None
    """Where the contestant's metrics tell it."""
    images: int = 1
    """In each request."""

    @property
    def images_per_s(self) -> float:
        return self.requests_per_s * self.images


class ProcessMemory(_Record):
    """A process after the load. `working` is False for one that used next to no CPU time."""

    name: str
    working: bool
    cpu_s: float
    rss_mb: float
    pss_mb: float


class Visit(_Record):
    """One life of a server: how soon it answered right, and what it held after the load."""

    entry: str
    contestants: list[str]
    model: str
    repeat: int
    first_answer_s: float
    probe_images_per_s: float
    """The machine's own speed just before; see `bench.serving.ceiling.probe`."""
    processes: list[ProcessMemory]


class CeilingRate(_Record):
    """ONNX Runtime alone."""

    model: str
    repeat: int
    processes: int
    threads: int
    batch: int
    images_per_s: float


class Results(_Record):
    """The whole run."""

    date: str
    machine: Machine
    seconds: float
    repeats: int
    connections: list[int]
    workloads: dict[str, str]
    """Title by name."""
    models: dict[str, str]
    """Model by the workload's name."""
    participants: list[Participant]
    measurements: list[Measurement] = []
    visits: list[Visit] = []
    ceiling: list[CeilingRate] = []

    @classmethod
    def read(cls, path: Path) -> "Results":
        """What `write` wrote.

        Raises:
            ValidationError: it is of another form.
        """
        return cls.model_validate_json(path.read_text(encoding="utf-8"))

    def write(self, path: Path) -> None:
        """As JSON, replacing the file at once."""
        path.parent.mkdir(parents=True, exist_ok=True)
        staging = path.with_name(path.name + ".part")
        staging.write_text(self.model_dump_json(indent=1) + "\n", encoding="utf-8")
        staging.replace(path)
