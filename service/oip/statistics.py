"""Model statistics in the form of the protocol, computed from the metrics of all workers."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from prometheus_client.samples import Sample

from limelight.artifact.manifest import Manifest
from service.request_context import Stage

_NANOSECONDS = 1_000_000_000
# Names of the protocol and the stages that each of them sums.
_PHASES: dict[str, tuple[Stage, ...]] = {
    "queue": ("queue",),
    "compute_input": ("read", "decode"),
    "compute_infer": ("compute",),
    "compute_output": ("render",),
}


@dataclass(frozen=True, slots=True)
class Duration:
    """Number of events and their total time."""

    count: int
    ns: int


@dataclass(frozen=True, slots=True)
class BatchStatistics:
    batch_size: int
    compute_infer: Duration


@dataclass(frozen=True, slots=True)
class ModelStatistics:
    """Statistics of a model over all routes. The field names are those of the protocol."""

    name: str
    version: str
    last_inference: int
    """Unix time in milliseconds; 0 before the first inference."""
    inference_count: int
    """Number of images."""
    execution_count: int
    """Number of batches."""
    inference_stats: Mapping[str, Duration]
    batch_stats: tuple[BatchStatistics, ...]


def model_statistics(samples: Iterable[Sample], manifest: Manifest) -> ModelStatistics:
    """Sum the samples of `service.telemetry.metrics` for one version of a model."""
    of_version = {"model": manifest.name, "version": manifest.version}.items()
    own = [sample for sample in samples if of_version <= sample.labels.items()]

    def total(name: str, **labels: str) -> float:
        wanted = labels.items()
        return sum(
            sample.value
            for sample in own
            if sample.name == f"limelight_{name}" and wanted <= sample.labels.items()
        )

    def ended(outcome: str, codes: Iterable[str]) -> Duration:
        seconds = total("model_seconds_total", outcome=outcome)
        count = sum(total("requests_total", code=code) for code in codes)
        return Duration(round(count), round(seconds * _NANOSECONDS))

    def phase(stages: Iterable[Stage]) -> Duration:
        counts = [total("stage_duration_seconds_count", stage=stage) for stage in stages]
        seconds = sum(total("stage_duration_seconds_sum", stage=stage) for stage in stages)
        return Duration(round(max(counts)), round(seconds * _NANOSECONDS))

    codes = {sample.labels["code"] for sample in own if "code" in sample.labels}
    sizes = {sample.labels["size"] for sample in own if "size" in sample.labels}
    return ModelStatistics(
        name=manifest.name,
        version=manifest.version,
        last_inference=round(total("last_answer_timestamp_seconds") * 1000),
        inference_count=round(total("batch_size_sum")),
        execution_count=round(total("batch_size_count")),
        inference_stats={
            "success": ended("success", {code for code in codes if code < "400"}),
            "fail": ended("failure", {code for code in codes if code >= "400"}),
            **{name: phase(stages) for name, stages in _PHASES.items()},
            "cache_hit": Duration(0, 0),
            "cache_miss": Duration(0, 0),
        },
        batch_stats=tuple(
            BatchStatistics(
                int(size),
                Duration(
                    round(total("batches_total", size=size)),
                    round(total("batch_seconds_total", size=size) * _NANOSECONDS),
                ),
            )
            for size in sorted(sizes, key=int)
        ),
    )
