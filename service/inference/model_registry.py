"""Registry of the served models, by name and version."""

import asyncio
import logging
from collections.abc import Iterator, Mapping
from typing import Any

from limelight.artifact.store import ArtifactError
from limelight.errors import NotReady, UnknownModel
from service.inference.classifier import Classifier
from service.inference.model_loader import ModelError, ModelLoader
from service.inference.rollout_routing import Rollouts
from service.repository.plan import Key, Plan, State, key_of
from service.repository.source import find_models
from service.repository.version_policy import VersionPolicies
from service.request_context import RequestContext
from service.settings import Settings
from service.telemetry.metrics import Metrics

logger = logging.getLogger("limelight.registry")


class ModelRegistry:
    """Registry of the models by name, with the reason why a model cannot be served.

    A model that fails to load does not affect the others, but the service is ready only when all
    models that were there at its start are served. Of each model, the active version answers
    requests that name no version: the newest one, unless an operator has chosen another.
    """

    def __init__(self, settings: Settings, metrics: Metrics, *, threads: int = 1) -> None:
        self._settings = settings
        self._loader = ModelLoader(settings, metrics, threads=threads)
        self.threads = threads
        self._metrics = metrics
        self._served: dict[str, dict[str, Classifier]] = {}
        self._prepared: dict[Key, Classifier] = {}
        self._retired: set[asyncio.Task[None]] = set()
        self._failures: dict[str, str] = {}
        self._failed: dict[str, str] = {}
        self._refused: dict[str, str] = {}
        self._unloaded: list[str] = []
        self._labels: dict[str, dict[str, str]] = {}
        self._problem: str | None = "the models are being loaded"
        self.rollouts = Rollouts(metrics, settings.canary_header, self._is_idle)

    @property
    def unready_reason(self) -> str | None:
        """Reason why the service is not ready; None if it is ready."""
        return self._problem

    @property
    def classifiers(self) -> dict[str, Classifier]:
        """Active version of each model, in alphabetical order."""
        return {name: next(iter(self._served[name].values())) for name in sorted(self._served)}

    @property
    def versions(self) -> list[Classifier]:
        """Every served version, by name, the active one first."""
        return [each for name in sorted(self._served) for each in self._served[name].values()]

    def labels_of(self, name: str, version: str) -> list[str]:
        """Return the labels of a version."""
        return sorted(
            label for label, each in self._labels.get(name, {}).items() if each == version
        )

    def rollout_of(self, name: str) -> dict[str, Any] | None:
        """Describe the last canary or shadow of a model; None if there was none."""
        return self.rollouts.describe(self._served[name])

    def versions_of(self, name: str) -> tuple[str, ...]:
        """Return the served versions of a model, the active one first; none if not served."""
        return tuple(self._served.get(name, {}))

    @property
    def refused(self) -> dict[Key, str]:
        """Versions on disk that failed to load, with the reason."""
        return {key_of(each): reason for each, reason in sorted(self._refused.items())}

    @property
    def unloaded(self) -> list[Key]:
        """Versions that would be served, but for an operator who unloaded their model."""
        return [key_of(each) for each in self._unloaded]

    @property
    def default(self) -> str:
        """Name of the model that answers requests without a model name."""
        if self._settings.default_model is not None:
            return self._settings.default_model
        # Models that failed to load count too: another model must not silently replace the default.
        names = {*self._served, *self._failures}
        return "digits" if "digits" in names else min(names, default="digits")

    def memory(self) -> dict[str, int]:
        """Return the bytes that each loaded version added to this worker, by NAME/VERSION."""
        return {key: each.memory_bytes for key, each in self._by_key()}

    def used(self) -> dict[str, float]:
        """Return the time of the last image of each loaded version, on the monotonic clock."""
        return {key: round(each.batcher.used, 1) for key, each in self._by_key()}

    def load(self, state: State | None = None) -> dict[str, str]:
        """Load the models of `state`, or those on disk, and return what failed, with the reason.

        Failures do not raise: see `unready_reason`.
        """
        if state is None:
            state = self._state_on_disk()
        failed = self.prepare(state.active)
        self._switch(state.active)
        self._failures = {
            name: reason
            for key, reason in failed.items()
            if (name := key.split("/")[0]) not in self._served
        }
        self._failed = failed
        self.note(state)
        if self._problem is not None:
            logger.error("the service is not ready: %s", self._problem)
        return failed

    def prepare(self, plan: Plan) -> dict[str, str]:
        """Load what `plan` has and is not served yet, and return what failed, with the reason.

        It takes seconds, and may run in a thread while the event loop serves.
        """
        failed = {}
        for (name, version), folder in plan:
            if version in self._served.get(name, {}) or (name, version) in self._prepared:
                continue
            try:
                self._prepared[name, version] = self._loader.load(folder)
            except ModelError as error:
                failed[f"{name}/{version}"] = str(error)
        return failed

    def discard_prepared(self, plan: Plan) -> None:
        """Close what was prepared for an earlier plan, and is not in this one."""
        for key in self._prepared.keys() - dict(plan).keys():
            self._retire(self._prepared.pop(key))

    def activate(self, state: State, *, close_after_s: float) -> None:
        """Serve what was prepared for `state`, and let go of the rest after a while.

        Requests in progress keep the version that they began with. None of them lasts longer than
        `close_after_s`, after which that version is closed.
        """
        old = {each.key: each for each in self.versions}
        self._switch(state.active)
        for key in old.keys() - dict(state.active).keys():
            name, version = key
            logger.info("model %s %s is no longer served", name, version)
            self._retire(old[key], after_s=close_after_s)
        waiting = {key.split("/")[0] for key in state.refused}
        self._failures = {
            name: reason
            for name, reason in self._failures.items()
            if name not in self._served and name in waiting
        }
        self._failed = {}
        self.note(state)

    def note(self, state: State) -> None:
        """Note what the parent refused, the labels and the rollouts.

        What this worker could not load of the active plan is refused too: the parent hears of it
        a moment later.
        """
        self._refused = self._failed | state.refused
        self._unloaded, self._labels = state.unloaded, state.active.labels
        self.rollouts.note(state.rollouts)
        self._count()
        self._problem = state.problem or self._find_problem()

    def served(self, name: str | None, version: str | None = None) -> Classifier | None:
        """Return a model, the default one if `name` is None; None if it is not served.

        `version` is a version or its label; None means the active version.
        """
        name = self.default if name is None else name
        versions = self._served.get(name)
        if versions is None:
            return None
        if version is None:
            return next(iter(versions.values()))
        return versions.get(self._labels.get(name, {}).get(version, version))

    def get(self, name: str | None, version: str | None = None) -> Classifier:
        """Return the model `name`, or the default model if `name` is None; see `served`.

        Raises:
            UnknownModel: there is no model of this name, or it is not served in this version.
            NotReady: the model could not be loaded.
        """
        found = self.served(name, version)
        if found is not None:
            return found
        name = self.default if name is None else name
        if name in self._served:
            raise UnknownModel(
                f"{name[:100]} has no version {version!r:.50} here: use one of "
                f"{', '.join(self._served[name])}"
            )
        if name in self._failures:
            raise NotReady(self._failures[name], retry_after_s=10)
        if not self._served:
            raise NotReady(self._problem or "no model is loaded", retry_after_s=10)
        raise UnknownModel(
            f"there is no model {name[:100]!r}: use one of {', '.join(self._served)}"
        )

    def route(
        self,
        name: str | None,
        version: str | None,
        headers: Mapping[bytes, bytes],
        context: RequestContext,
    ) -> Classifier:
        """Return the model that answers a request: what `get` returns, or its canary.

        Raises:
            UnknownModel, NotReady: see `get`.
        """
        return self.choose(self.get(name, version), version, headers, context)

    def choose(
        self,
        found: Classifier,
        version: str | None,
        headers: Mapping[bytes, bytes],
        context: RequestContext,
    ) -> Classifier:
        """Return the model that answers a request for `version`: `found`, or its canary."""
        if version is not None:
            return found
        return self.rollouts.choose(self._served[found.manifest.name], headers, context)

    async def close(self) -> None:
        """Finish the images in progress of all models."""
        self.rollouts.close()
        for task in self._retired:
            task.cancel()
        for classifier in [*self.versions, *self._prepared.values()]:
            await classifier.close()
        self._loader.close()

    def _by_key(self) -> Iterator[tuple[str, Classifier]]:
        for each in [*self.versions, *self._prepared.values()]:
            yield "/".join(each.key), each

    def _state_on_disk(self) -> State:
        try:
            found = find_models(self._settings.models)
        except ArtifactError as error:
            return State(Plan(), Plan(), problem=str(error))
        policies = VersionPolicies.parse(self._settings.versions)
        models = {
            name: {each: str(folder) for each, folder in policies.of(name).select(versions).items()}
            for name, versions in found.items()
        }
        plan = Plan(1, models)
        return State(plan, plan)

    def _switch(self, plan: Plan) -> None:
        """Serve the versions of `plan`; a request sees the models before or after it."""
        served: dict[str, dict[str, Classifier]] = {}
        for name, version in self._loaded(plan):
            found = self._prepared.pop((name, version), None) or self._served[name][version]
            served.setdefault(name, {})[version] = found
        self._served = served

    def _loaded(self, plan: Plan) -> Iterator[Key]:
        for (name, version), _ in plan:
            if (name, version) in self._prepared or version in self._served.get(name, {}):
                yield name, version

    def _find_problem(self) -> str | None:
        if self._failures:
            return "; ".join(dict.fromkeys(self._failures.values()))
        if self.default not in self._served:
            names = ", ".join(self._served)
            return f"LIMELIGHT_DEFAULT_MODEL is {self.default!r}, which is not among {names}"
        return None

    def _is_idle(self) -> bool:
        served = list(self._served.values())
        return not any(each.batcher.admission.admitted for row in served for each in row.values())

    def _count(self) -> None:
        served = {each.key for each in self.versions}
        self._metrics.models.set_served(served)
        self._metrics.models.set_refused(self.refused)

    def _retire(self, classifier: Classifier, *, after_s: float = 0.0) -> None:
        async def close() -> None:
            await asyncio.sleep(after_s)
            await classifier.close()

        task = asyncio.get_running_loop().create_task(close())
        self._retired.add(task)
        task.add_done_callback(self._retired.discard)
