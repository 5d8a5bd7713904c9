"""deploy/kubernetes: validity in three versions of Kubernetes, and agreement with the service.

The fixture `rendered` is the base and every variant of an overlay; `overlay` is only the variants
(conftest.py).
"""

import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from kubernetes_validate import (  # type: ignore[import-untyped]
    SchemaNotFoundError,
    ValidationError,
)
from pydantic import ValidationError as ModelError

from service.openapi.document import document as openapi
from service.process.memory import needed_bytes
from service.process.workers import choose
from service.settings import Settings
from tests.deploy import manifests
from tests.deploy.manifests import KUBERNETES, ROOT, VERSIONS, Manifests

PREFIX = str(Settings.model_config["env_prefix"])
LABELS = {"app.kubernetes.io/name": "limelight"}


@pytest.mark.parametrize("version", VERSIONS)
def test_every_object_is_valid(rendered: Manifests, version: str) -> None:
    for document in rendered.documents:
        manifests.validate(document, version)


@pytest.mark.parametrize("version", VERSIONS)
def test_every_file_is_valid_without_rendering(version: str) -> None:
    documents = manifests.raw_documents()
    kinds = {document["kind"] for document in documents.values()}
    assert kinds == {
        *("Deployment", "Service", "PodDisruptionBudget", "NetworkPolicy"),
        *("HorizontalPodAutoscaler", "ScaledObject", "ServiceMonitor", "HTTPRoute"),
    }
    for document in documents.values():
        manifests.validate(document, version)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("kind", ["Service", "ServiceMonitor", "ScaledObject", "HTTPRoute"])
def test_unknown_field_or_kind_is_rejected(version: str, kind: str) -> None:
    known = next(d for d in manifests.raw_documents().values() if d["kind"] == kind)
    with pytest.raises((ValidationError, ModelError)):
        manifests.validate({**known, "spec": {**known["spec"], "no_such_field": 1}}, version)
    with pytest.raises(SchemaNotFoundError):
        manifests.validate({**known, "kind": "NoSuchKind"}, version)


def test_every_file_is_rendered_or_listed() -> None:
    used = set(manifests.raw_documents())
    others = {path for path in KUBERNETES.rglob("*") if path.is_file()} - used
    assert {str(path.relative_to(KUBERNETES)) for path in others} == {
        "base/kustomization.yaml",
        "components/grpc/kustomization.yaml",
        "components/hpa/kustomization.yaml",
        "components/hpa/prometheus-adapter-values.yaml",
        "components/keda/kustomization.yaml",
        "components/service-monitor/kustomization.yaml",
        "components/tracing/kustomization.yaml",
        "overlays/canary/challenger/kustomization.yaml",
        "overlays/canary/kustomization.yaml",
        "overlays/cpu/kustomization.yaml",
        "overlays/gpu/deployment.yaml",
        "overlays/gpu/kustomization.yaml",
    }


def test_config_map_contains_only_known_settings(rendered: Manifests) -> None:
    data = rendered["ConfigMap"]["data"]
    known = {PREFIX + field.upper() for field in Settings.model_fields}
    assert set(data) <= known, "the service ignores a misspelt variable"
    set_fields = rendered.settings.model_fields_set
    assert {PREFIX + field.upper() for field in set_fields} >= set(data)
    assert rendered.container["envFrom"] == [
        {"configMapRef": {"name": rendered["ConfigMap"]["metadata"]["name"]}}
    ]
    assert rendered.pod["enableServiceLinks"] is False


def test_config_map_name_has_a_content_hash(overlay: Manifests) -> None:
    assert re.fullmatch(r"limelight-[a-z0-9]{10}", overlay["ConfigMap"]["metadata"]["name"])


@pytest.mark.parametrize(
    ("probe", "path"),
    [("startupProbe", "/readyz"), ("readinessProbe", "/readyz"), ("livenessProbe", "/livez")],
)
def test_probes_use_routes_of_the_service(rendered: Manifests, probe: str, path: str) -> None:
    asked = rendered.container[probe]["httpGet"]
    assert asked == {"path": path, "port": "http"}
    assert "get" in openapi(Settings())["paths"][path]


def test_termination_grace_period_covers_drain_and_timeout(rendered: Manifests) -> None:
    settings = rendered.settings
    sleep_s = rendered.container["lifecycle"]["preStop"]["sleep"]["seconds"]
    needed_s = sleep_s + settings.drain_s + settings.timeout_s
    assert rendered.pod["terminationGracePeriodSeconds"] > needed_s
    assert sleep_s > 0
    assert settings.drain_s > 0
    strategy = rendered["Deployment"]["spec"]["strategy"]["rollingUpdate"]
    assert strategy == {"maxUnavailable": 0, "maxSurge": 1}


def test_memory_limit_covers_what_the_settings_allow(rendered: Manifests) -> None:
    limits = rendered.container["resources"]["limits"]
    gigabytes = int(limits["memory"].removesuffix("Gi"))
    chosen = choose(
        workers=rendered.settings.workers,
        threads=0,
        cores=int(limits["cpu"]),
        gpu="nvidia.com/gpu" in limits,
    )
    needed = needed_bytes(rendered.settings, workers=chosen.workers)
    assert gigabytes * 2**30 > needed * 1.1  # room for the page cache of /tmp


def test_http_and_grpc_ports_agree_in_every_object(rendered: Manifests) -> None:
    (exposed,) = re.findall(r"^EXPOSE (\d+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    ports, grpc_port = {"http": int(exposed)}, rendered.settings.grpc_port
    assert (grpc_port is not None) == ("grpc" in rendered.name)
    if grpc_port is not None:
        ports["grpc"] = grpc_port
    assert rendered.container["ports"] == [
        {"name": name, "containerPort": port} for name, port in ports.items()
    ]
    for entry in (served := rendered["Service"]["spec"]["ports"]):
        assert entry["targetPort"] == entry["name"]
    assert {entry["name"]: entry["port"] for entry in served} == ports
    (ingress,) = rendered["NetworkPolicy"]["spec"]["ingress"]
    assert ingress == {"ports": [{"protocol": "TCP", "port": port} for port in ports.values()]}
    if "ServiceMonitor" in rendered:
        (endpoint,) = rendered["ServiceMonitor"]["spec"]["endpoints"]
        assert endpoint["port"] == "http"
        assert "get" in openapi(Settings())["paths"][endpoint["path"]]


def test_egress_is_limited_to_dns_and_traces(rendered: Manifests) -> None:
    policy = rendered["NetworkPolicy"]["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    ports = {port["port"]: rule.get("to") for rule in policy["egress"] for port in rule["ports"]}
    assert ports.pop(53) is None
    endpoint = rendered.settings.trace_endpoint
    if endpoint:
        url = urlsplit(endpoint)
        namespace = str(url.hostname).split(".")[1]
        selector = {"matchLabels": {"kubernetes.io/metadata.name": namespace}}
        assert ports.pop(url.port) == [{"namespaceSelector": selector}]
    assert not ports
    assert bool(endpoint) == ("tracing" in rendered.name)


def test_image_has_the_extras_that_the_components_need() -> None:
    extras = re.findall(r"extra='\[([a-z,]+)\]'", (ROOT / "Dockerfile").read_text())
    assert len(extras) == 2  # for a GPU and for a CPU
    for extra in extras:
        assert {"serve", "grpc", "tracing"} <= set(extra.split(","))


def test_idle_connections_are_kept_longer_than_by_load_balancers(rendered: Manifests) -> None:
    assert rendered.settings.keep_alive_s > 60


def test_every_selector_matches_the_pods(rendered: Manifests) -> None:
    template = rendered["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert template == LABELS
    assert rendered["Service"]["spec"]["selector"] == LABELS
    assert rendered["NetworkPolicy"]["spec"]["podSelector"] == {"matchLabels": LABELS}
    for kind in ("Deployment", "PodDisruptionBudget", *_present(rendered, "ServiceMonitor")):
        assert rendered[kind]["spec"]["selector"] == {"matchLabels": LABELS}, kind
    spread = rendered.pod["topologySpreadConstraints"]
    assert [c["topologyKey"] for c in spread] == [
        "kubernetes.io/hostname",
        "topology.kubernetes.io/zone",
    ]
    assert all(c["labelSelector"] == {"matchLabels": LABELS} for c in spread)
    if "ServiceMonitor" in rendered:
        job = rendered["ServiceMonitor"]["spec"]["jobLabel"]
        assert rendered["Service"]["metadata"]["labels"][job] == "limelight"


def test_pod_meets_the_restricted_security_standard(rendered: Manifests) -> None:
    (user,) = re.findall(r"^USER (\d+):\d+$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert rendered.pod["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": int(user),
        "runAsGroup": int(user),
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert rendered.container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert rendered.pod["automountServiceAccountToken"] is False
    assert not {"hostNetwork", "hostPID", "hostIPC", "initContainers"} & set(rendered.pod)
    (volume,) = rendered.pod["volumes"]
    assert set(volume) == {"name", "emptyDir"}
    assert rendered.container["volumeMounts"] == [{"name": volume["name"], "mountPath": "/tmp"}]


def test_memory_limit_covers_full_queues_in_every_worker(rendered: Manifests) -> None:
    resources = rendered.container["resources"]
    limits = dict(resources["limits"])
    gpus = limits.pop("nvidia.com/gpu", 0)
    assert resources["requests"] == limits, "QoS class Guaranteed"
    workers = 1 if gpus else min(8, int(limits["cpu"]))
    memory = int(limits["memory"].removesuffix("Gi")) * 2**30
    assert memory > workers * (rendered.settings.max_queued_bytes + 250_000_000)


def test_image_tag_is_the_version_or_gpu(overlay: Manifests) -> None:
    name, _, tag = overlay.container["image"].rpartition(":")
    assert name == "limelight"
    assert tag == ("gpu" if overlay.name.startswith("gpu") else _project_version())


def test_device_matches_the_overlay(overlay: Manifests) -> None:
    gpu = overlay.name.startswith("gpu")
    assert overlay.settings.device == ("cuda" if gpu else "cpu")
    assert overlay.container["resources"]["limits"].get("nvidia.com/gpu") == (1 if gpu else None)


def test_autoscaler_uses_a_recorded_metric(overlay: Manifests) -> None:
    (adapter,) = manifests.read(KUBERNETES / "components/hpa/prometheus-adapter-values.yaml")
    (rule,) = adapter["rules"]["custom"]
    (recorded,) = re.findall(r'__name__="([^"]+)"', rule["seriesQuery"])
    (rules,) = manifests.read(ROOT / "deploy/prometheus/limelight.rules.yml")
    assert recorded in {r.get("record") for group in rules["groups"] for r in group["rules"]}
    assert "replicas" not in overlay["Deployment"]["spec"], "`kubectl apply` would undo the scaling"
    if "ScaledObject" in overlay:
        assert "HorizontalPodAutoscaler" not in overlay, "two autoscalers would conflict"
        (trigger,) = overlay["ScaledObject"]["spec"]["triggers"]
        namespace = overlay["ScaledObject"]["metadata"]["namespace"]
        assert trigger["metadata"]["query"] == f'sum({recorded}{{namespace="{namespace}"}})'
    else:
        (metric,) = overlay["HorizontalPodAutoscaler"]["spec"]["metrics"]
        assert metric["pods"]["metric"]["name"] == rule["name"]["as"]


def test_both_autoscalers_have_the_same_limits_and_behaviour() -> None:
    by_kind = {d["kind"]: d["spec"] for d in manifests.raw_documents().values()}
    hpa, keda = by_kind["HorizontalPodAutoscaler"], by_kind["ScaledObject"]
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "limelight"}
    assert hpa["scaleTargetRef"] == keda["scaleTargetRef"] == target
    assert (hpa["minReplicas"], hpa["maxReplicas"]) == (
        keda["minReplicaCount"],
        keda["maxReplicaCount"],
    )
    assert hpa["minReplicas"] >= 2, "with one replica a drained node is an outage"
    assert hpa["behavior"] == keda["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    (metric,) = hpa["metrics"]
    milliseconds = int(metric["pods"]["target"]["averageValue"].removesuffix("m"))
    assert milliseconds == float(keda["triggers"][0]["metadata"]["threshold"]) * 1000


@pytest.fixture(scope="module")
def tracks(kubectl: Path) -> dict[str, Manifests]:
    """Render the overlay `canary`, and split it into the two versions and their route."""
    documents = manifests.render(kubectl, KUBERNETES / "overlays" / "canary")
    found: dict[str, list[manifests.Json]] = {"stable": [], "canary": [], "route": []}
    for document in documents:
        name = document["metadata"]["name"]
        track = "canary" if name.startswith("limelight-canary") else "stable"
        found["route" if document["kind"] == "HTTPRoute" else track].append(document)
    return {name: Manifests(name, parts) for name, parts in found.items()}


@pytest.mark.parametrize("version", VERSIONS)
def test_canary_overlay_is_valid(tracks: dict[str, Manifests], version: str) -> None:
    for track in tracks.values():
        for document in track.documents:
            manifests.validate(document, version)


def test_stable_track_of_the_canary_overlay_is_that_of_cpu(
    kubectl: Path, tracks: dict[str, Manifests]
) -> None:
    assert tracks["stable"].documents == manifests.render(kubectl, KUBERNETES / "overlays" / "cpu")


def test_tracks_select_their_own_pods_only(tracks: dict[str, Manifests]) -> None:
    labels = {"app.kubernetes.io/name": "limelight-canary"}
    canary = tracks["canary"]
    pod_labels = canary["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert pod_labels == labels
    assert canary["Service"]["spec"]["selector"] == labels
    assert canary["NetworkPolicy"]["spec"]["podSelector"] == {"matchLabels": labels}
    for kind in ("Deployment", "PodDisruptionBudget", "ServiceMonitor"):
        assert canary[kind]["spec"]["selector"] == {"matchLabels": labels}, kind
    assert canary["Service"]["metadata"]["labels"].items() >= labels.items()
    assert tracks["stable"]["Service"]["spec"]["selector"] == LABELS
    config = canary.container["envFrom"][0]["configMapRef"]["name"]
    assert config == canary["ConfigMap"]["metadata"]["name"]
    images = [track.container["image"] for track in (tracks["stable"], canary)]
    assert images[0] != images[1]


def test_route_divides_the_traffic_between_the_services(tracks: dict[str, Manifests]) -> None:
    (rule,) = tracks["route"]["HTTPRoute"]["spec"]["rules"]
    weights = {each["name"]: each["weight"] for each in rule["backendRefs"]}
    assert sum(weights.values()) == 100
    services = {
        track["Service"]["metadata"]["name"]: track["Service"]
        for track in (tracks["stable"], tracks["canary"])
    }
    assert set(weights) == set(services)
    for backend in rule["backendRefs"]:
        ports = {each["port"] for each in services[backend["name"]]["spec"]["ports"]}
        assert backend["port"] in ports


def _present(rendered: Manifests, *kinds: str) -> list[str]:
    return [kind for kind in kinds if kind in rendered]


def _project_version() -> str:
    text = (ROOT / "pyproject.toml").read_text()
    found: list[Any] = re.findall(r'^version = "(.+)"$', text, re.MULTILINE)
    return str(found[0])
