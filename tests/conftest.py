"""Fixtures for the tests of every package: artefacts, and a service with them."""

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from limelight.artifact.store import Artifact, load_artifact
from tests.serving_kit import DIGIT_NETWORK, Server, bentoml_serve, write_artifact

# What the tests import stays. A garbage collection that looks at all of it takes a second, which is
# then part of the time that some tests measure.
gc.disable()


def pytest_collection_finish() -> None:
    """Exempt from garbage collection what was imported."""
    gc.freeze()
    gc.enable()


@pytest.fixture(autouse=True, scope="session")
def _own_image_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the images that tests decode out of the user's cache, whose data sets stay in reach."""
    found = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    own = tmp_path_factory.mktemp("cache")
    (own / "limelight").mkdir()
    for folder in (found, found / "limelight"):
        for path in folder.iterdir() if folder.is_dir() else ():
            if path.name not in ("limelight", "images"):
                (own / path.relative_to(found)).symlink_to(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(own))
        yield


@pytest.fixture(autouse=True, scope="session")
def _no_wait_for_the_disk() -> Iterator[None]:
    """Leave out `fsync`, which is for a loss of power: the tests write thousands of files."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20261121)


@pytest.fixture(scope="session")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("zoo")
    write_artifact(root)
    older = ["cam", "contrast", "occlusion"]
    write_artifact(root, name="digits", version="12", network=DIGIT_NETWORK, methods=older)
    return root


@pytest.fixture(scope="session")
def colours(zoo: Path) -> Artifact:
    return load_artifact(zoo / "colours" / "1")


@pytest.fixture(scope="session")
def digits(zoo: Path) -> Artifact:
    return load_artifact(zoo / "digits" / "12")


@pytest.fixture(scope="session")
def server(zoo: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    with bentoml_serve(
        zoo,
        folder,
        LIMELIGHT_MAX_BYTES="200000",
        LIMELIGHT_MAX_PIXELS="1000000",
        LIMELIGHT_WORKERS="2",
    ) as server:
        yield server


@pytest.fixture(scope="session")
def client(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=30) as client:
        yield client
