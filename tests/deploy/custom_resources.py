"""Schemas of the custom resources, with only the fields in use; others are rejected."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Duration = Annotated[str, Field(pattern=r"^\d+(ms|s|m)$")]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _Metadata(_Strict):
    name: str
    namespace: str | None = None
    labels: dict[str, str]


class _Selector(_Strict):
    matchLabels: dict[str, str]  # noqa: N815


class _Endpoint(_Strict):
    port: str
    path: str
    interval: Duration


class _ServiceMonitorSpec(_Strict):
    jobLabel: str  # noqa: N815
    selector: _Selector
    endpoints: Annotated[list[_Endpoint], Field(min_length=1)]


class ServiceMonitor(_Strict):
    """https://prometheus-operator.dev/docs/api-reference/api/."""

    apiVersion: Literal["monitoring.coreos.com/v1"]  # noqa: N815
    kind: Literal["ServiceMonitor"]
    metadata: _Metadata
    spec: _ServiceMonitorSpec


class _Target(_Strict):
    apiVersion: str  # noqa: N815
    kind: str
    name: str


class _Fallback(_Strict):
    failureThreshold: Annotated[int, Field(ge=1)]  # noqa: N815
    replicas: Annotated[int, Field(ge=0)]


class _HpaConfig(_Strict):
    behavior: dict[str, Any]  # validated as part of a HorizontalPodAutoscaler


class _Advanced(_Strict):
    horizontalPodAutoscalerConfig: _HpaConfig  # noqa: N815


class _PrometheusMetadata(_Strict):
    """Metadata of a trigger, in which every value is a string, even numbers and booleans."""

    serverAddress: Annotated[str, Field(pattern="^https?://")]  # noqa: N815
    query: str
    threshold: Annotated[str, Field(pattern=r"^\d+(\.\d+)?$")]
    ignoreNullValues: Literal["true", "false"]  # noqa: N815


class _Trigger(_Strict):
    type: Literal["prometheus"]
    metadata: _PrometheusMetadata


class _ScaledObjectSpec(_Strict):
    scaleTargetRef: _Target  # noqa: N815
    minReplicaCount: Annotated[int, Field(ge=0)]  # noqa: N815
    maxReplicaCount: Annotated[int, Field(ge=1)]  # noqa: N815
    pollingInterval: Annotated[int, Field(ge=1)]  # noqa: N815
    fallback: _Fallback
    advanced: _Advanced
    triggers: Annotated[list[_Trigger], Field(min_length=1)]


class ScaledObject(_Strict):
    """https://keda.sh/docs/latest/reference/scaledobject-spec/."""

    apiVersion: Literal["keda.sh/v1alpha1"]  # noqa: N815
    kind: Literal["ScaledObject"]
    metadata: _Metadata
    spec: _ScaledObjectSpec


class _Parent(_Strict):
    name: str
    namespace: str


class _Backend(_Strict):
    name: str
    port: Annotated[int, Field(ge=1, le=65535)]
    weight: Annotated[int, Field(ge=0, le=1_000_000)]


class _Rule(_Strict):
    backendRefs: Annotated[list[_Backend], Field(min_length=1, max_length=16)]  # noqa: N815


class _HttpRouteSpec(_Strict):
    parentRefs: Annotated[list[_Parent], Field(min_length=1)]  # noqa: N815
    hostnames: Annotated[list[str], Field(max_length=16)]
    rules: Annotated[list[_Rule], Field(min_length=1, max_length=16)]


class HTTPRoute(_Strict):
    """https://gateway-api.sigs.k8s.io/reference/spec/."""

    apiVersion: Literal["gateway.networking.k8s.io/v1"]  # noqa: N815
    kind: Literal["HTTPRoute"]
    metadata: _Metadata
    spec: _HttpRouteSpec


MODELS: dict[str, type[_Strict]] = {
    "ServiceMonitor": ServiceMonitor,
    "ScaledObject": ScaledObject,
    "HTTPRoute": HTTPRoute,
}
