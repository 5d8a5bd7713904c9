"""Manifests rendered with kubectl, if it is installed or can be downloaded.

Without kubectl, tests of the overlays are skipped with a reason, and those of the base still run.
"""

from pathlib import Path

import pytest

from tests.deploy import manifests
from tests.deploy.kubectl import NoKubectlError, find_kubectl
from tests.deploy.manifests import KUBERNETES, Manifests

OVERLAYS = ("cpu", "gpu", "cpu with keda, tracing and grpc", "gpu with keda, tracing and grpc")


@pytest.fixture(scope="session")
def kubectl() -> Path:
    try:
        return find_kubectl()
    except NoKubectlError as error:
        pytest.skip(f"the overlays cannot be rendered: {error}")


@pytest.fixture(scope="session", params=OVERLAYS)
def overlay(
    request: pytest.FixtureRequest, kubectl: Path, tmp_path_factory: pytest.TempPathFactory
) -> Manifests:
    return _rendered(str(request.param), kubectl, tmp_path_factory)


@pytest.fixture(scope="session", params=("base", *OVERLAYS))
def rendered(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Manifests:
    if request.param == "base":
        return Manifests("base", manifests.base_as_it_lies())
    kubectl = request.getfixturevalue("kubectl")
    return _rendered(str(request.param), kubectl, tmp_path_factory)


def _rendered(name: str, kubectl: Path, temporary: pytest.TempPathFactory) -> Manifests:
    folder = KUBERNETES
    if "keda" in name:
        folder = manifests.with_other_components(temporary.mktemp("deploy"))
    return Manifests(name, manifests.render(kubectl, folder / "overlays" / name.split()[0]))
