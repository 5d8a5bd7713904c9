"""Reading, rendering and validating what lies in deploy/kubernetes."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import yaml

from service.settings import Settings
from tests.deploy.custom_resources import MODELS

Json = dict[str, Any]

ROOT = Path(__file__).resolve().parents[2]
KUBERNETES = ROOT / "deploy" / "kubernetes"
VERSIONS = ("1.33", "1.35", "1.37")


class Manifests:
    """What one variant renders to: its name, and its documents by kind."""

    def __init__(self, name: str, documents: list[Json]) -> None:
        self.name = name
        self.documents = documents

    def __getitem__(self, kind: str) -> Json:
        (document,) = [d for d in self.documents if d["kind"] == kind]
        return document

    def __contains__(self, kind: str) -> bool:
        return any(d["kind"] == kind for d in self.documents)

    @property
    def pod(self) -> Json:
        spec: Json = self["Deployment"]["spec"]["template"]["spec"]
        return spec

    @property
    def container(self) -> Json:
        (container,) = self.pod["containers"]
        assert isinstance(container, dict)
        return container

    @property
    def settings(self) -> Settings:
        """The settings as the service would read them from the ConfigMap."""
        with pytest.MonkeyPatch.context() as environment:
            for key, value in self["ConfigMap"]["data"].items():
                environment.setenv(key, value)
            return Settings()


def read(path: Path) -> list[Json]:
    """Every YAML document of a file."""
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def render(kubectl: Path, folder: Path) -> list[Json]:
    """What ``kubectl apply -k FOLDER`` would send; raises with what kubectl says."""
    done = subprocess.run(
        [kubectl, "kustomize", folder], capture_output=True, text=True, timeout=60, check=False
    )
    if done.returncode != 0 or "deprecated" in done.stderr:
        raise ValueError(f"kubectl kustomize {folder}: {done.stderr}")
    return [document for document in yaml.safe_load_all(done.stdout) if document]


def base_as_it_lies() -> list[Json]:
    """The base without kubectl: its files and the ConfigMap that its literals make."""
    (kustomization,) = read(KUBERNETES / "base" / "kustomization.yaml")
    documents = [d for name in kustomization["resources"] for d in read(KUBERNETES / "base" / name)]
    (generator,) = kustomization["configMapGenerator"]
    data = dict(literal.split("=", 1) for literal in generator["literals"])
    metadata = {"name": generator["name"]}
    return [
        *documents,
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data},
    ]


def with_other_components(folder: Path) -> Path:
    """A copy whose overlays take KEDA, tracing and gRPC, as the comments in them say."""
    copy = folder / "kubernetes"
    shutil.copytree(KUBERNETES, copy)
    for overlay in (copy / "overlays").glob("*/kustomization.yaml"):
        text = overlay.read_text()
        for old, new in (
            ("../../components/hpa  # or ../../components/keda", "../../components/keda"),
            ("# - ../../components/tracing", "- ../../components/tracing"),
            ("# - ../../components/grpc", "- ../../components/grpc"),
        ):
            assert text.count(old) == 1, (overlay, old)
            text = text.replace(old, new)
        overlay.write_text(text)
    return copy


def validate(document: Json, version: str) -> None:
    """Raise unless this version of Kubernetes knows the kind and every field of it."""
    model = MODELS.get(document["kind"])
    if model is not None:
        model.model_validate(document)
        behavior = document["spec"].get("advanced")
        if behavior:
            validate(_as_autoscaler(document), version)
        return
    validated = kubernetes_validate.validate(document, version, strict=True)
    # Without this version's schemas it would take the newest of an older one.
    assert validated == version, f"validated against {validated}, not {version}"


def _as_autoscaler(scaled: Json) -> Json:
    """The HorizontalPodAutoscaler that KEDA makes of a ScaledObject, without its metric."""
    spec = scaled["spec"]
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": scaled["metadata"],
        "spec": {
            "scaleTargetRef": spec["scaleTargetRef"],
            "minReplicas": spec["minReplicaCount"],
            "maxReplicas": spec["maxReplicaCount"],
            "behavior": spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"],
        },
    }


def raw_documents() -> dict[Path, Json]:
    """Every whole object in the folder by its file: neither kustomizations nor patches."""
    files = sorted(KUBERNETES.rglob("*.yaml"))
    kustomizations = {path: read(path)[0] for path in files if path.name == "kustomization.yaml"}
    named = {
        path.parent / name
        for path, document in kustomizations.items()
        for name in document.get("resources", [])
        if name.endswith(".yaml")
    }
    return {path: document for path in files if path in named for document in read(path)}
