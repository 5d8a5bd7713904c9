"""State of a worker as metrics: whether it is ready, its requests in flight, and its queues."""

from collections import defaultdict
from collections.abc import Callable

from service.inference.batching import Batcher
from service.inference.model_registry import ModelRegistry
from service.process.worker_status import WorkerStatus
from service.readiness import Readiness
from service.telemetry.metrics import Metrics


class WorkerGauges:
    """Reader of a worker's state into its metrics.

    Args:
        metrics: where the values go.
        registry: models, each of which has a queue.
        readiness: whether the worker is ready.
        in_flight: returns the number of requests in flight.
        worker_status: memory of the parent, which counts the deaths; None without a parent.
    """

    def __init__(
        self,
        metrics: Metrics,
        registry: ModelRegistry,
        readiness: Readiness,
        *,
        in_flight: Callable[[], int],
        worker_status: WorkerStatus | None,
    ) -> None:
        self._metrics, self._registry, self._readiness = metrics, registry, readiness
        self._in_flight, self._worker_status = in_flight, worker_status
        self._queued: set[str] = set()

    def update(self) -> None:
        """Set the gauges to the present state."""
        deaths = 0 if self._worker_status is None else self._worker_status.deaths
        ready = self._readiness.is_ready
        self._metrics.set_worker(ready=ready, in_flight=self._in_flight(), deaths=deaths)
        batchers: defaultdict[str, list[Batcher]] = defaultdict(list)
        for classifier in self._registry.versions:
            batchers[classifier.manifest.name].append(classifier.batcher)
        for name in self._queued - batchers.keys():  # unloaded since then
            self._metrics.models.set_queue(name, depth=0, age_s=0.0)
        self._queued = set(batchers)
        for name, found in batchers.items():
            depth, age_s = sum(each.depth for each in found), max(each.age_s for each in found)
            self._metrics.models.set_queue(name, depth=depth, age_s=age_s)
