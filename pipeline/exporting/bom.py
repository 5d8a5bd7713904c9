"""Bill of materials of an artefact: a CycloneDX ML-BOM, made from its manifest.

python -m pipeline.exporting.bom zoo/cifar10 --to build/sbom    # writes cifar10-9.cdx.json
"""

import argparse
import json
import sys
import uuid
from pathlib import Path
from typing import Any

from limelight.artifact.manifest import MANIFEST_FILE, Manifest, TensorSpec
from limelight.artifact.store import Artifact, ArtifactError, load_artifact, newest_version
from pipeline.atomic_files import write_text

Json = dict[str, Any]

# The same artefact has the same serial number.
_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "https://cyclonedx.org/capabilities/mlbom/")


def bill_of_materials(artifact: Artifact) -> Json:
    """Return the ML-BOM of an artefact (CycloneDX 1.6): its files, its data, its libraries.

    It has the facts of the manifest only, so the same artefact always has the same one.
    """
    manifest = artifact.manifest
    data, libraries = _data(manifest), _libraries(manifest)
    model = {
        "type": "machine-learning-model",
        "bom-ref": f"{manifest.name}@{manifest.version}",
        "name": manifest.name,
        "version": manifest.version,
        "description": manifest.description,
        "modelCard": _model_card(manifest, data["bom-ref"]),
        # A component of a BOM may consist of others.
        "components": _files(artifact),
    }
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(_NAMESPACE, artifact.digest)}",
        "version": 1,
        "metadata": {"timestamp": manifest.created, "component": model},
        "components": [data, *libraries],
        "dependencies": [
            {
                "ref": model["bom-ref"],
                "dependsOn": [each["bom-ref"] for each in (data, *libraries)],
            }
        ],
    }


def _files(artifact: Artifact) -> list[Json]:
    digests = {MANIFEST_FILE: artifact.digest}
    digests |= {name: file.sha256 for name, file in artifact.manifest.files.items()}
    return [
        {
            "type": "file",
            "bom-ref": f"file:{name}",
            "name": name,
            "hashes": [{"alg": "SHA-256", "content": digest}],
        }
        for name, digest in digests.items()
    ]


def _data(manifest: Manifest) -> Json:
    data = manifest.data
    return {
        "type": "data",
        "bom-ref": f"data:{data.name}",
        "name": data.name,
        "description": f"{data.train_images} images to train, {data.validation_images} to validate "
        f"and {data.test_images} to test. The hash is that of the decoded arrays.",
        "hashes": [{"alg": "SHA-256", "content": data.sha256}],
        "licenses": [{"license": {"name": data.licence}}],
        "data": [{"type": "dataset", "name": data.name, "description": data.source}],
    }


def _libraries(manifest: Manifest) -> list[Json]:
    """Return the packages that trained and exported the model; it runs without them."""
    used = {(name.split(":")[-1], version) for name, version in manifest.libraries.items()}
    return [
        {
            "type": "library",
            "bom-ref": f"pkg:pypi/{name}@{version}",
            "name": name,
            "version": version,
            "purl": f"pkg:pypi/{name}@{version}",
            "scope": "excluded",
        }
        for name, version in sorted(used)
    ]


def _model_card(manifest: Manifest, data: str) -> Json:
    metrics = manifest.metrics
    measured = {"accuracy": metrics.accuracy, "log loss": metrics.log_loss}
    measured["expected calibration error"] = metrics.ece
    return {
        "modelParameters": {
            "approach": {"type": "supervised"},
            "task": "image classification",
            "architectureFamily": "convolutional neural network",
            "modelArchitecture": manifest.network.architecture,
            "datasets": [{"ref": data}],
            "inputs": [{"format": _format(tensor)} for tensor in manifest.inputs],
            "outputs": [{"format": _format(tensor)} for tensor in manifest.outputs],
        },
        "quantitativeAnalysis": {
            "performanceMetrics": [
                {"type": name, "value": str(value), "slice": "test set"}
                for name, value in measured.items()
            ]
        },
    }


def _format(tensor: TensorSpec) -> str:
    return f"{tensor.name}: {tensor.dtype} ({', '.join(map(str, tensor.shape))})"


def main() -> int:
    """Write the BOM of each artefact that the command line names."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.exporting.bom", description=__doc__)
    parser.add_argument("artifacts", nargs="+", type=Path, help="versions, or folders of versions")
    parser.add_argument("--to", type=Path, required=True, help="folder for NAME-VERSION.cdx.json")
    arguments = parser.parse_args()
    arguments.to.mkdir(parents=True, exist_ok=True)
    for path in arguments.artifacts:
        try:
            artifact = load_artifact(newest_version(path))
        except ArtifactError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        manifest = artifact.manifest
        file = arguments.to / f"{manifest.name}-{manifest.version}.cdx.json"
        write_text(file, json.dumps(bill_of_materials(artifact), indent=2, ensure_ascii=False))
        print(file)
    return 0


if __name__ == "__main__":
    sys.exit(main())
