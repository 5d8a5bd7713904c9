"""Reading, rendering and validation of the manifests in deploy/kubernetes."""

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
    """Rendered documents of one variant by kind, and the name of the variant."""

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
        """Read the settings from the ConfigMap as the service does."""
        with pytest.MonkeyPatch.context() as environment:
            for key, value in self["ConfigMap"]["data"].items():
                environment.setenv(key, value)
            return Settings()


def read(path: Path) -> list[Json]:
    """Return every YAML document of a file."""
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def render(kubectl: Path, folder: Path) -> list[Json]:
    """Return the documents that ``kubectl apply -k FOLDER`` would send.

    Raise kubectl's error message if it fails.
    """
    done = subprocess.run(
        [kubectl, "kustomize", folder], capture_output=True, text=True, timeout=60, check=False
    )
    if done.returncode != 0 or "deprecated" in done.stderr:
        raise ValueError(f"kubectl kustomize {folder}: {done.stderr}")
    return [document for document in yaml.safe_load_all(done.stdout) if document]


def base_as_it_lies() -> list[Json]:
    """Return the base without kubectl: its files, and the ConfigMap of its literals."""
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
    """Copy the manifests and enable KEDA, tracing and gRPC, as described in their comments."""
    copy = folder / "kubernetes"
    shutil.copytree(KUBERNETES, copy)
    for name in ("cpu", "gpu"):
        overlay = copy / "overlays" / name / "kustomization.yaml"
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
    """Raise if this version of Kubernetes does not know the kind or one of its fields."""
    model = MODELS.get(document["kind"])
    if model is not None:
        model.model_validate(document)
        behavior = document["spec"].get("advanced")
        if behavior:
            validate(_as_autoscaler(document), version)
        return
    validated = kubernetes_validate.validate(document, version, strict=True)
    # Without schemas of this version, the validator would use an older version.
    assert validated == version, f"validated against {validated}, not {version}"


def _as_autoscaler(scaled: Json) -> Json:
    """Return KEDA's HorizontalPodAutoscaler of a ScaledObject, without its metric."""
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
    """Return every complete object by its file, without kustomizations and patches."""
    files = sorted(KUBERNETES.rglob("*.yaml"))
    kustomizations = {path: read(path)[0] for path in files if path.name == "kustomization.yaml"}
    named = {
        path.parent / name
        for path, document in kustomizations.items()
        for name in document.get("resources", [])
        if name.endswith(".yaml")
    }
    return {path: document for path in files if path in named for document in read(path)}
