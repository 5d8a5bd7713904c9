"""The server itself and its models, as the protocol asks for them: what REST and gRPC share."""

from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version

from limelight.errors import LimelightError, NotReady, UnknownModel
from service.inference.classifier import Classifier
from service.inference.model_registry import ModelRegistry
from service.oip.inference import Inference
from service.oip.metadata import ModelMetadata, model_metadata
from service.oip.model_config import Json, model_configuration
from service.oip.statistics import ModelStatistics, model_statistics
from service.settings import Settings
from service.telemetry.metrics import Metrics

NAME = "limelight"
EXTENSIONS = (
    "binary_tensor_data",
    "classification",
    "model_configuration",
    "parameters",
    "statistics",
)


def server_version() -> str:
    """Of the installed package; a copy that is not installed cannot tell."""
    try:
        return version(NAME)
    except PackageNotFoundError:
        return "unknown"


class Server:
    """Models by name and version, and what there is to say of them.

    Args:
        workers: processes that serve the same.
        problem: why the service takes no requests; None when it does.
    """

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        registry: ModelRegistry,
        *,
        workers: int,
        problem: Callable[[], LimelightError | None],
    ) -> None:
        self.settings = settings
        self.inference = Inference(settings)
        self.rejection = problem
        self._metrics = metrics
        self._registry = registry
        self._workers = workers

    def classifier(self, name: str, asked_version: str = "") -> Classifier:
        """The model of this name; a version must be the one that is served.

        Raises:
            UnknownModel: there is none of this name, or version.
            NotReady: there is, but it could not be loaded.
        """
        classifier = self._registry.get(name)
        served = classifier.manifest.version
        if asked_version not in ("", served):
            raise UnknownModel(
                f"Request for unknown model: {name[:100]!r} version {asked_version[:20]} is not "
                f"found: version {served} is served"
            )
        return classifier

    def check_ready(self, name: str, asked_version: str = "") -> None:
        """Raises:
        UnknownModel, NotReady: see `classifier`.
        Draining: the service takes no further requests.
        """
        self.classifier(name, asked_version)
        problem = self.rejection()
        if problem is not None and not isinstance(problem, NotReady):
            raise problem

    def metadata(self, name: str, asked_version: str = "") -> ModelMetadata:
        """Raises:
        UnknownModel, NotReady: see `classifier`.
        """
        return model_metadata(self.classifier(name, asked_version).manifest)

    def configuration(self, name: str, asked_version: str = "") -> Json:
        """Raises:
        UnknownModel, NotReady: see `classifier`.
        """
        return model_configuration(
            self.classifier(name, asked_version),
            max_batch=self.inference.max_batch,
            workers=self._workers,
        )

    def statistics(self, name: str = "", asked_version: str = "") -> list[ModelStatistics]:
        """Of one model, or all; it takes some milliseconds, and `Metrics.flush` comes before it.

        Raises:
            UnknownModel, NotReady: see `classifier`.
        """
        if name:
            classifiers = [self.classifier(name, asked_version)]
        else:
            classifiers = list(self._registry.classifiers.values())
        samples = self._metrics.samples()
        return [model_statistics(samples, classifier.manifest) for classifier in classifiers]

    def index(self) -> list[dict[str, str]]:
        """Every model, and why those that are not served are not."""
        ready = [
            {
                "name": name,
                "version": classifier.manifest.version,
                "state": "READY",
                "reason": "",
            }
            for name, classifier in self._registry.classifiers.items()
        ]
        failed = [
            {"name": name, "version": "", "state": "UNAVAILABLE", "reason": reason}
            for name, reason in self._registry.failures.items()
        ]
        return ready + failed
