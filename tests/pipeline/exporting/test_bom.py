"""Bill of materials of an artefact: valid CycloneDX, with the manifest's facts."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from limelight.artifact.store import load_artifact, newest_version, shipped_models
from pipeline.exporting.bom import bill_of_materials
from tests.serving_kit import REPOSITORY, write_artifact


def test_bom_is_valid_and_has_the_hash_of_every_file(tmp_path: Path) -> None:
    validator = JsonStrictValidator(SchemaVersion.V1_6)
    for folder in (
        write_artifact(tmp_path),
        newest_version(shipped_models() / "cifar10"),
        newest_version(shipped_models() / "digits"),
    ):
        bom = bill_of_materials(load_artifact(folder))
        assert validator.validate_str(json.dumps(bom)) is None
        model = bom["metadata"]["component"]
        assert model["type"] == "machine-learning-model"
        hashes = {each["name"]: each["hashes"][0]["content"] for each in model["components"]}
        assert "manifest.json" in hashes
        for name, digest in hashes.items():
            assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
    assert {each["type"] for each in bom["components"]} == {"data", "library"}


def test_command_writes_the_same_file_again(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pipeline.exporting.bom", "--to", str(tmp_path), "zoo/digits"]
    contents = []
    for _ in range(2):
        done = subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, text=True)
        contents.append(Path(done.stdout.strip()).read_bytes())
    assert contents[0] == contents[1]
    version = newest_version(REPOSITORY / "zoo" / "digits").name
    assert (tmp_path / f"digits-{version}.cdx.json").is_file()
    missing = subprocess.run(
        [*command[:-1], "zoo/nobody"], cwd=REPOSITORY, check=False, capture_output=True, text=True
    )
    assert (missing.returncode, "is missing" in missing.stderr) == (1, True)
