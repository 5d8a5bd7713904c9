"""BentoML's model store: copies of artefacts, which `bentoml models` lists and moves."""

import os
import shutil
from importlib.util import find_spec
from pathlib import Path

from limelight.artifact.store import load_artifact
from pipeline.errors import PipelineError


def check_bentoml() -> None:
    """Check that BentoML is installed.

    Raises:
        PipelineError: it is not.

    """
    if find_spec("bentoml") is None:
        raise PipelineError(
            "--bento needs bentoml, which is not installed: pip install 'limelight[serve]'"
        )


def put_in_store(folder: Path) -> str:
    """Copy an artefact into BentoML's model store (`BENTOML_HOME`), and return its tag.

    The tag is NAME:VERSION, so the store is itself a folder of artefacts.

    Raises:
        PipelineError: BentoML is not installed, or the store has this tag already.

    """
    check_bentoml()
    # Read when BentoML is imported: it would send usage statistics.
    os.environ.setdefault("BENTOML_DO_NOT_TRACK", "True")
    import bentoml
    from bentoml.exceptions import BentoMLException

    manifest = load_artifact(folder).manifest
    tag = f"{manifest.name}:{manifest.version}"
    facts = {"classes": len(manifest.classes), "test_accuracy": manifest.metrics.accuracy}
    try:
        with bentoml.models.create(tag, labels={"made-by": "limelight"}, metadata=facts) as model:
            shutil.copytree(folder, model.path, dirs_exist_ok=True)
    except (BentoMLException, OSError) as error:
        raise PipelineError(
            f"{folder} cannot be put into BentoML's model store as {tag} ({error}): if that tag is "
            "there, export again into a folder with newer versions, or run `bentoml models delete "
            f"{tag}`"
        ) from error
    return tag
