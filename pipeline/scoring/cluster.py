"""Score shards by Ray Data, on this machine or on the cluster that RAY_ADDRESS names.

A row is the number of a shard, and an actor scores it like `--engine local`, with the same batches
and the same output files. Ray's own readers give neither row numbers nor files of fixed contents,
and stop at the first file that cannot be read. On a cluster all nodes must have the source, the
artefact and the output folder at the same path.
"""

import dataclasses
import functools
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# Before Ray is imported, since it reads them then.
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")

import numpy as np
import ray
import ray.data
from numpy.typing import NDArray

from limelight.artifact.store import load_artifact
from pipeline.scoring import ScoringError
from pipeline.scoring.failures import in_words
from pipeline.scoring.scorer import Scorer, Settings
from pipeline.scoring.shards import Job, score_shard


class ShardScorer:
    """Ray actor that opens the engine once, and then scores one shard after another."""

    def __init__(self, job: Job, settings: Settings) -> None:
        self._job = job
        self._settings = settings

    @functools.cached_property
    def _scorer(self) -> Scorer:
        # Not in the constructor: Ray would log a failure at length and retry for a while.
        return Scorer(load_artifact(self._job.artifact), self._settings)

    def __call__(self, batch: dict[str, NDArray[np.int64]]) -> dict[str, list[int] | list[str]]:
        """Score the shards whose numbers are in `batch`; return their images, or the error."""
        images, problem = 0, ""
        try:
            with in_words():
                for shard in batch["id"].tolist():
                    images += score_shard(self._job, self._scorer, shard).images
        except ScoringError as error:
            problem = str(error)
        return {"images": [images], "problem": [problem]}


def run_on_ray(job: Job, on_images: Callable[[int], None]) -> None:
    """Score the missing shards with an actor for each GPU, or for each CPU without a GPU.

    Raises:
        ScoringError: a shard cannot be scored, or Ray itself fails.

    """
    with _ray():
        cpus, gpus = (int(ray.cluster_resources().get(kind, 0)) for kind in ("CPU", "GPU"))
        uses_gpu = gpus > 0 and job.settings.device != "cpu"
        shards = job.missing
        actors = min(gpus if uses_gpu else cpus, len(shards))
        cores = max(1, cpus // actors)
        settings = dataclasses.replace(
            job.settings, threads=job.settings.threads or cores, decoders=cores
        )
        scored = ray.data.from_items([{"id": shard} for shard in shards]).map_batches(
            ShardScorer,
            fn_constructor_args=(job, settings),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=actors),
            num_cpus=1,
            num_gpus=1 if uses_gpu else 0,
        )
        try:
            for row in scored.iter_rows():
                if row["problem"]:
                    raise ScoringError(row["problem"])
                on_images(int(row["images"]))
        except ray.exceptions.RayError as error:
            raise ScoringError(f"Ray failed: {error}: run the same command again") from error


@contextmanager
def _ray() -> Iterator[None]:
    """Start Ray quietly on all cores of this machine, or join the cluster in RAY_ADDRESS."""
    # Without an address it would join any cluster that runs on this machine.
    ray.init(
        address=os.environ.get("RAY_ADDRESS", "local"),
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    ray.data.DataContext.get_current().enable_progress_bars = False
    try:
        yield
    finally:
        ray.shutdown()
