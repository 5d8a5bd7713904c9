"""Folders of models whose versions have the shipped weights."""

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from limelight.artifact.manifest import MANIFEST_FILE
from limelight.artifact.store import newest_version, shipped_models

MODEL = "cifar10"


def publish(models: Path, version: int) -> None:
    """Rename a copy of the shipped model into place, with another version in its manifest."""
    source = newest_version(shipped_models() / MODEL)
    with tempfile.TemporaryDirectory(dir=models.parent) as folder:
        copied = Path(folder) / "copy"
        shutil.copytree(source, copied)
        manifest = json.loads((copied / MANIFEST_FILE).read_text())
        (copied / MANIFEST_FILE).write_text(json.dumps(manifest | {"version": str(version)}))
        (models / MODEL).mkdir(parents=True, exist_ok=True)
        copied.rename(models / MODEL / str(version))


@contextmanager
def models() -> Iterator[Path]:
    """Make a folder with version 1 of the model, for the block."""
    with tempfile.TemporaryDirectory(prefix="limelight-bench-") as folder:
        root = Path(folder) / "models"
        root.mkdir()
        publish(root, 1)
        yield root
