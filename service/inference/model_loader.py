"""Loading of a model: verified files, the engine that runs best, a warm-up, and its batcher."""

import logging
import time
from functools import partial
from pathlib import Path

from limelight.artifact.store import ArtifactError, load_artifact
from limelight.runtime.engine import Engine
from limelight.runtime.onnx_session import EngineError
from limelight.runtime.precision import Speedups, choose_engine
from service.inference.batching import Batcher
from service.inference.classifier import Classifier
from service.inference.decoding import DecodingPool
from service.settings import Settings
from service.system.malloc import resident_bytes
from service.telemetry.metrics import Metrics

logger = logging.getLogger("limelight.registry")


class ModelError(Exception):
    """A model cannot be loaded; the message says why and what to do."""


class ModelLoader:
    """Loader of the models of one worker, which share its decoding threads.

    Args:
        threads: CPU threads of one forward pass.
    """

    def __init__(self, settings: Settings, metrics: Metrics, *, threads: int = 1) -> None:
        self._settings = settings
        self._metrics = metrics
        self._threads = threads
        self._speedups: Speedups = {}
        self._decoding = DecodingPool(max_bytes=settings.max_decoded_bytes, threads=threads)

    def load(self, folder: Path) -> Classifier:
        """Load the artefact in `folder`, and warm it up.

        Its files, its signature if a setting says so, and its golden samples are checked.

        Raises:
            ModelError: it cannot be loaded.
        """
        try:
            return self._load(folder)
        except (ArtifactError, EngineError) as error:
            raise ModelError(str(error)) from error
        except Exception as error:
            name = folder.parent.name
            logger.exception("model %s cannot be loaded", name)
            raise ModelError(f"{name} cannot be loaded: see the log") from error

    def close(self) -> None:
        """End the decoding threads."""
        self._decoding.close()

    def _load(self, folder: Path) -> Classifier:
        settings, started = self._settings, time.perf_counter()
        memory = resident_bytes()
        artifact = load_artifact(folder)
        manifest = artifact.manifest
        signature = None
        if settings.signatures != "off":
            from service.inference.signature_check import check_signature

            signature = check_signature(artifact, settings)
        engine = choose_engine(
            artifact,
            device=settings.device,
            threads=self._threads,
            precision=settings.precision,
            speedups=self._speedups,
        )
        loaded = time.perf_counter()
        warm_up_s = engine.warm_up(_warm_up_sizes(engine, settings.max_batch))
        memory_bytes = max(0, resident_bytes() - memory)
        self._metrics.models.set_loaded(
            manifest,
            file=engine.file,
            provider=engine.provider,
            precision=engine.precision,
            load_s=loaded - started,
            warm_up_s=warm_up_s,
            memory_bytes=memory_bytes,
        )
        logger.info(
            "model %s %s runs on %s in %s (%s), warmed up in %.2f s",
            *(manifest.name, manifest.version, engine.provider),
            *(engine.precision, engine.precision_reason, warm_up_s),
        )
        batcher = Batcher(
            engine.run,
            max_batch=settings.max_batch,
            max_queued=settings.max_queued,
            # While a GPU computes one batch, the next one is copied to it.
            concurrency=1 if engine.provider == "CPU" else 2,
            expensive=manifest.expensive_outputs,
            observe=partial(self._metrics.observe_batch, (manifest.name, manifest.version)),
        )
        return Classifier(
            manifest=manifest,
            digest=artifact.digest,
            signature=signature,
            engine=engine,
            batcher=batcher,
            decoding=self._decoding,
            max_pixels=settings.max_pixels,
            max_picture_pixels=settings.max_picture_pixels,
            max_evaluations=settings.max_evaluations,
            memory_bytes=memory_bytes,
        )


def _warm_up_sizes(engine: Engine, max_batch: int) -> list[int]:
    """Return the batch sizes to warm up. On a GPU, the first batch of every size is slow."""
    if engine.provider == "CPU":
        return sorted({1, 2, max_batch})
    return [1 << power for power in range((max_batch - 1).bit_length() + 1)]
