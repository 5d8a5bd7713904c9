"""Model registry: models are loaded, verified and warmed up before the first request."""

import logging
import time
from functools import partial
from pathlib import Path

from limelight.artifact.store import ArtifactError, find_artifacts, load_artifact
from limelight.errors import NotReady, UnknownModel
from limelight.runtime.engine import Engine
from limelight.runtime.onnx_session import EngineError
from limelight.runtime.precision import choose_engine
from service.inference.batching import Batcher
from service.inference.classifier import Classifier
from service.inference.decoding import DecodingPool
from service.settings import Settings
from service.telemetry.metrics import Metrics

logger = logging.getLogger("limelight.registry")


class ModelRegistry:
    """Registry of the models by name, with the reason why a model cannot be served.

    A model that fails to load does not affect the others, but the service is ready only when all
    models are loaded.
    """

    def __init__(self, settings: Settings, metrics: Metrics, *, threads: int = 1) -> None:
        self._settings = settings
        self._decoding = DecodingPool(max_bytes=settings.max_decoded_bytes, threads=threads)
        self._metrics = metrics
        self._threads = threads
        self._loaded: dict[str, Classifier] = {}
        self._failures: dict[str, str] = {}
        self._unready_reason: str | None = "the models are being loaded"

    @property
    def unready_reason(self) -> str | None:
        """Reason why the service is not ready; None if it is ready."""
        return self._unready_reason

    @property
    def classifiers(self) -> dict[str, Classifier]:
        """Served models, in alphabetical order."""
        return dict(sorted(self._loaded.items()))

    @property
    def failures(self) -> dict[str, str]:
        """Models that could not be loaded, with the reason."""
        return dict(sorted(self._failures.items()))

    @property
    def default(self) -> str:
        """Name of the model that answers requests without a model name."""
        if self._settings.default_model is not None:
            return self._settings.default_model
        # Models that failed to load count too: another model must not silently replace the default.
        names = {*self._loaded, *self._failures}
        return "digits" if "digits" in names else min(names, default="digits")

    def load(self) -> None:
        """Load the newest version of every model. Failures do not raise: see `unready_reason`."""
        try:
            folders = find_artifacts(self._settings.models)
        except ArtifactError as error:
            self._fail(str(error))
            return
        for name, folder in folders.items():
            try:
                self._loaded[name] = self._classifier(folder)
            except (ArtifactError, EngineError) as error:
                self._failures[name] = str(error)
            except Exception:
                logger.exception("model %s cannot be loaded", name)
                self._failures[name] = f"{name} cannot be loaded: see the log"
        if self._failures:
            self._fail("; ".join(dict.fromkeys(self._failures.values())))
        elif self.default not in self._loaded:
            names = ", ".join(self._loaded)
            self._fail(f"LIMELIGHT_DEFAULT_MODEL is {self.default!r}, which is not among {names}")
        else:
            self._unready_reason = None

    def served(self, name: str | None) -> Classifier | None:
        """Return the model `name`, or the default model if `name` is None; None if not served."""
        return self._loaded.get(self.default if name is None else name)

    def get(self, name: str | None) -> Classifier:
        """Return the model `name`, or the default model if `name` is None.

        Raises:
            UnknownModel: there is no model of this name.
            NotReady: the model could not be loaded.
        """
        found = self.served(name)
        if found is not None:
            return found
        name = self.default if name is None else name
        if name in self._failures:
            raise NotReady(self._failures[name], retry_after_s=10)
        if not self._loaded:
            raise NotReady(self._unready_reason or "no model is loaded", retry_after_s=10)
        raise UnknownModel(
            f"there is no model {name[:100]!r}: use one of {', '.join(self._loaded)}"
        )

    async def close(self) -> None:
        """Finish the images in progress of all models."""
        for classifier in self._loaded.values():
            await classifier.close()
        self._decoding.close()

    def _classifier(self, folder: Path) -> Classifier:
        settings, started = self._settings, time.perf_counter()
        artifact = load_artifact(folder)
        manifest = artifact.manifest
        engine = choose_engine(
            artifact,
            device=settings.device,
            threads=self._threads,
            precision=settings.precision,
        )
        loaded = time.perf_counter()
        warm_up_s = engine.warm_up(_warm_up_sizes(engine, settings.max_batch))
        self._metrics.set_model(
            manifest,
            file=engine.file,
            provider=engine.provider,
            precision=engine.precision,
            load_s=loaded - started,
            warm_up_s=warm_up_s,
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
            observe=partial(self._metrics.observe_batch, manifest.name),
        )
        return Classifier(
            manifest=manifest,
            engine=engine,
            batcher=batcher,
            decoding=self._decoding,
            max_pixels=settings.max_pixels,
            max_picture_pixels=settings.max_picture_pixels,
            max_evaluations=settings.max_evaluations,
        )

    def _fail(self, reason: str) -> None:
        self._unready_reason = reason
        logger.error("the service is not ready: %s", reason)


def _warm_up_sizes(engine: Engine, max_batch: int) -> list[int]:
    """Return the batch sizes to warm up. On a GPU, the first batch of every size is slow."""
    if engine.provider == "CPU":
        return sorted({1, 2, max_batch})
    return [1 << power for power in range((max_batch - 1).bit_length() + 1)]
