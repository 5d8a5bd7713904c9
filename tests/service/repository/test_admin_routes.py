"""Routes of the management port: parameters that are wrong do nothing."""

from collections.abc import Iterator

import pytest

from service.repository.admin_routes import InvalidRequestError, carry_out
from service.repository.control import RepositoryError
from tests.service.repository.followed import Followed
from tests.serving_kit import write_artifact


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Followed]:
    """A service whose versions 1 (active) and 2 are served, the latter as `stable`."""
    folder = tmp_path_factory.mktemp("routes")
    for version in ("1", "2"):
        write_artifact(folder, version=version)
    with Followed(folder) as running:
        running.control.label("colours", "stable", "2")
        running.control.activate("colours", "1")
        yield running


@pytest.mark.parametrize(
    ("method", "target", "message"),
    [
        (
            "POST",
            "/models/colours/activate?verson=2",
            r"no parameter 'verson' \(there are: version",
        ),
        ("POST", "/models/colours/activate?version=", "version is missing or empty"),
        ("POST", "/models/colours/activate", "version is missing or empty"),
        ("POST", "/models/colours/activate?version=2&version=1", "is there twice"),
        ("PUT", "/models/colours/labels/stable?version=", "version is missing or empty"),
        ("PUT", "/models/colours/labels/stable", "version is missing or empty"),
        ("DELETE", "/models/colours/labels/stable?version=1", r"'version' \(there are: none\)"),
        ("POST", "/models/colours/rollback?to=2", r"no parameter 'to' \(there are: none\)"),
        ("PUT", "/models/colours/rollout?kind=canary&version=", "must be a number on disk"),
        ("PUT", "/models/colours/rollout?kind=canary&version=2&max_error=1", "there are: kind, ve"),
        ("PUT", "/log-level?lvl=debug", r"no parameter 'lvl' \(there are: level\)"),
        ("GET", "http://[/models", "is no path: Invalid IPv6 URL"),
    ],
)
def test_wrong_parameters_are_an_error_and_change_nothing(
    running: Followed, method: str, target: str, message: str
) -> None:
    before = running.control.describe()
    with pytest.raises(InvalidRequestError, match=message):
        carry_out(running.control, method, target)
    assert running.control.describe() == before


@pytest.mark.parametrize(
    ("method", "target", "message"),
    [
        ("PUT", "/models/nosuch/labels/x?version=1", "there is no model nosuch"),
        ("DELETE", "/models/nosuch/labels/x", "nosuch has no label x"),
        ("DELETE", "/models/colours/labels/x", r"no label x \(there are: stable\)"),
        ("POST", "/models/nosuch/activate?version=latest", "there is no model nosuch"),
        ("POST", "/models//activate?version=1", "there is no such path"),
        ("POST", "/v2/repository/models/nosuch/load", "there is no model nosuch"),
    ],
)
def test_what_does_not_exist_is_not_found(
    running: Followed, method: str, target: str, message: str
) -> None:
    with pytest.raises(RepositoryError, match=message) as raised:
        carry_out(running.control, method, target)
    assert not raised.value.found


def test_routes_carry_out_their_commands(running: Followed) -> None:
    carry_out(running.control, "DELETE", "/models/colours/labels/stable")
    assert running.models["colours"]["labels"] == {}
    carry_out(running.control, "POST", "/models/colours/activate?version=latest")
    assert running.served() == ["2"]
