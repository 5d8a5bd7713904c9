"""Data plane of the protocol: the server and its models, shared by REST and gRPC."""

from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from secrets import token_hex

from limelight.errors import LimelightError, NotReady, UnknownModel
from service.inference.classifier import Classifier
from service.inference.model_registry import ModelRegistry
from service.oip.errors import InvalidInference
from service.oip.inference import Inference
from service.oip.metadata import ModelMetadata, model_metadata
from service.oip.model_config import Json, model_configuration
from service.oip.statistics import ModelStatistics, model_statistics
from service.repository.plan import repository_index
from service.repository.relay import Relay, refused
from service.repository.source import is_name
from service.request_context import RequestContext
from service.settings import Settings
from service.telemetry.metrics import Metrics

NAME = "limelight"
ACTIVE = "-1"
"""Version that means the active one, as an empty version does."""
EXTENSIONS = (
    "binary_tensor_data",
    "classification",
    "model_configuration",
    "parameters",
    "statistics",
)


# Sent with every `unload` of Triton's clients; no model depends on another one here.
_CONTROL_PARAMETERS = {"unload_dependents"}


def server_version() -> str:
    """Return the version of the installed package, or "unknown" if it is not installed."""
    try:
        return version(NAME)
    except PackageNotFoundError:
        return "unknown"


class Server:
    """Models by name and version, with their metadata, configuration and statistics.

    Args:
        workers: number of worker processes of the service.
        unready_error: returns the error of a service that is not ready; None if it is ready.
        relay: way of commands on the models to the parent; None: they are refused.
    """

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        registry: ModelRegistry,
        *,
        workers: int,
        unready_error: Callable[[], LimelightError | None],
        relay: Relay | None = None,
    ) -> None:
        self.settings = settings
        self.inference = Inference(settings)
        self.unready_error = unready_error
        self._metrics = metrics
        self._registry = registry
        self._workers = workers
        self._relay = relay
        self.extensions = (*EXTENSIONS, *(("model_repository",) if relay is not None else ()))
        """Names of the protocol's extensions that this service has."""

    def classifier(self, name: str, requested_version: str = "") -> Classifier:
        """Return a model, in the active version if `requested_version` is "" or `ACTIVE`.

        Raises:
            UnknownModel: there is no model of this name or version.
            NotReady: the model could not be loaded.
        """
        if requested_version in ("", ACTIVE):
            return self._registry.get(name)
        classifier = self._registry.served(name, requested_version)
        if classifier is not None:
            return classifier
        active = self._registry.get(name).manifest
        served = " and ".join(self._registry.versions_of(active.name))
        raise UnknownModel(
            f"Request for unknown model: {name[:100]!r} version {requested_version[:20]} is "
            f"not found: version {served} is served"
        )

    def route(
        self,
        name: str,
        requested_version: str,
        headers: Mapping[bytes, bytes],
        context: RequestContext,
    ) -> Classifier:
        """Return the model that answers an inference request; see `ModelRegistry.route`.

        Raises:
            UnknownModel, NotReady: see `classifier`.
        """
        if requested_version in ("", ACTIVE):
            return self._registry.route(name, None, headers, context)
        return self.classifier(name, requested_version)

    def check_ready(self, name: str, requested_version: str = "") -> None:
        """Check that a model is ready.

        Raises:
            UnknownModel, NotReady: see `classifier`.
            Draining: the service is shutting down.
        """
        self.classifier(name, requested_version)
        error = self.unready_error()
        # NotReady is about other models or the gRPC port: this model is loaded.
        if error is not None and not isinstance(error, NotReady):
            raise error

    def metadata(self, name: str, requested_version: str = "") -> ModelMetadata:
        """Return the metadata of a model.

        Raises:
            UnknownModel, NotReady: see `classifier`.
        """
        manifest = self.classifier(name, requested_version).manifest
        return model_metadata(manifest, self._registry.versions_of(manifest.name))

    def configuration(self, name: str, requested_version: str = "") -> Json:
        """Return the configuration of a model.

        Raises:
            UnknownModel, NotReady: see `classifier`.
        """
        return model_configuration(
            self.classifier(name, requested_version),
            max_batch=self.inference.max_batch,
            workers=self._workers,
        )

    def statistics(self, name: str = "", requested_version: str = "") -> list[ModelStatistics]:
        """Return the statistics of one model, or of all. Call `Metrics.flush` first.

        This takes some milliseconds, so call it in a thread.

        Raises:
            UnknownModel, NotReady: see `classifier`.
        """
        if name:
            classifiers = [self.classifier(name, requested_version)]
        else:
            classifiers = self._registry.versions
        samples = self._metrics.samples()
        return [model_statistics(samples, classifier.manifest) for classifier in classifiers]

    async def control(
        self, action: str, name: str, parameters: Iterable[str], context: RequestContext
    ) -> None:
        """Load or unload a model in all workers; see `relay.Relay.carry_out`.

        `parameters` are the names of those that the request has.

        Raises:
            PermissionDenied: the service asks for no keys, so nobody may do this here.
            InvalidInference: a parameter is not supported.
            UnknownModel: no model can have this name.
            LimelightError: see `Relay.carry_out`.
        """
        if self._relay is None:
            raise refused()
        for parameter in sorted(set(parameters) - _CONTROL_PARAMETERS):
            raise InvalidInference(
                f"the parameter {parameter[:50]!r} is not supported: models are loaded as they are "
                "in LIMELIGHT_MODELS"
            )
        if not is_name(name):  # it is neither passed on nor logged
            raise UnknownModel(f"there is no model {name[:100]!r}")
        key = context.caller.name
        await self._relay.carry_out(action, name, id_=token_hex(8), key=key)

    def index(self) -> list[dict[str, str]]:
        """Return every served version, and those that are not served, with the reason."""
        registry = self._registry
        ready = [each.key for each in registry.versions]
        return repository_index(ready, registry.refused, registry.unloaded)
