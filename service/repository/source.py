"""Source of the models: a folder of artefacts, or BentoML's model store."""

import re
from pathlib import Path

from limelight.artifact.manifest import MANIFEST_FILE
from limelight.artifact.store import ArtifactError, find_versions

_BENTO = "bento:"
NAME = "[a-z0-9][a-z0-9_-]{0,62}"
"""Regular expression of the name of a model."""
_TAG = re.compile(rf"bento:(?P<name>{NAME})(?::(?P<version>latest|[0-9]{{1,9}}))?")


def is_name(text: str) -> bool:
    """Return True if a model may have this name."""
    return re.fullmatch(NAME, text) is not None


def find_models(source: Path) -> dict[str, dict[str, Path]]:
    """Find the versions of each model: name -> version, newest first -> folder.

    `source` is a folder of artefacts, or `bento:NAME:TAG`: one version of a model in BentoML's
    store, or with the tag `latest` all of them.

    Raises:
        ArtifactError: there are none.
    """
    tag = _TAG.fullmatch(str(source))
    if tag is None:
        return find_versions(source)
    # The store has the form of a folder of artefacts. So nothing of BentoML's reads it, and no
    # object in it is ever unpickled.
    store, name, version = _store(), tag["name"], tag["version"] or "latest"
    found: dict[str, Path] = {}
    if (store / name).is_dir():
        try:
            found = find_versions(store).get(name, {})
        except ArtifactError:  # there are models, but none of ours
            found = {}
    if version != "latest":
        found = {version: found[version]} if version in found else {}
    if found:
        return {name: found}
    if (store / name / version).is_dir():
        raise ArtifactError(
            f"{name}:{version} in {store} is no artefact, for it has no {MANIFEST_FILE}: put one "
            "there with `limelight export RUN --bento`"
        )
    raise ArtifactError(
        f"BentoML's model store {store} has no {name}:{version}: put it there with `limelight "
        "export RUN --bento`; `bentoml models list` shows what there is"
    )


def check_source(source: Path) -> None:
    """Check the form of a source.

    Raises:
        ValueError: it begins like a tag of BentoML, but is none.
    """
    if str(source).startswith(_BENTO) and _TAG.fullmatch(str(source)) is None:
        raise ValueError("write bento:NAME:VERSION, as in bento:cifar10:9, or bento:NAME:latest")


def _store() -> Path:
    from bentoml._internal.configuration.containers import BentoMLContainer

    return Path(BentoMLContainer.model_store_dir.get())
