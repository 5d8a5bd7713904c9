"""Commands of an operator: what is served meanwhile, and what a failed one leaves."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from service.repository.control import Control, RepositoryError
from service.repository.rollout import Rollout
from tests.service.repository.followed import Followed
from tests.service.repository.test_coordinator import FIRST, SECOND
from tests.serving_kit import write_artifact

CANARY = Rollout(kind="canary", version="8", share=0.1)


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Followed]:
    """A service with the versions 4 to 8, of which 4 and 5 are damaged and 7 is active."""
    for version in ("4", "5", "6", "7", "8"):
        write_artifact(tmp_path, version=version)
    write_artifact(tmp_path, name="other")
    with Followed(tmp_path, damaged=("colours/4", "colours/5")) as running:
        running.control.activate("colours", "7")
        running.shown.clear()
        yield running


@pytest.mark.parametrize("version", ["99", "4", ""])
def test_failed_activation_changes_nothing_and_ends_no_canary(
    running: Followed, version: str
) -> None:
    running.control.start("colours", CANARY)
    before = running.models
    running.shown.clear()
    with pytest.raises(RepositoryError, match=r"no version|is refused: damaged"):
        running.control.activate("colours", version)
    time.sleep(0.1)
    assert running.ever_active() == {"7"}
    assert running.models == before
    assert running.models["colours"]["rollout"]["ended"] is None


def test_failed_rollback_changes_nothing(running: Followed) -> None:
    running.control.activate("colours", "8")
    running.control.activate("colours", "6")
    running.shown.clear()
    (running.root / "colours" / "8").rename(running.root.parent / "removed")
    with pytest.raises(RepositoryError, match="has no version 8 on disk"):
        running.control.rollback("colours")
    time.sleep(0.1)
    assert running.ever_active() == {"6"}


def test_failed_activation_of_an_unloaded_model_leaves_it_unloaded(running: Followed) -> None:
    running.control.unload("other")
    with pytest.raises(RepositoryError, match="other has no version 99 on disk"):
        running.control.activate("other", "99")
    time.sleep(0.1)
    assert running.served("other") == []
    assert running.control.describe()["unloaded"] == ["other"]
    running.control.activate("other", "1")
    assert running.served("other") == ["1"]
    assert running.control.describe()["unloaded"] == []


def test_policy_without_a_usable_version_leaves_the_activated_one(tmp_path: Path) -> None:
    for version in ("1", "2", "3"):
        write_artifact(tmp_path, version=version)
    with Followed(tmp_path, policies="specific:2", damaged=["colours/3"]) as running:
        running.control.activate("colours", "1")
        running.damaged = ["colours/2", "colours/3"]
        with pytest.raises(RepositoryError, match="colours 2 is refused: damaged"):
            running.control.activate("colours", "latest")
        assert running.served() == ["1"]


def test_failed_rollout_leaves_the_one_in_progress(running: Followed) -> None:
    running.control.start("colours", CANARY)
    with pytest.raises(RepositoryError, match="colours 4 is refused: damaged"):
        running.control.start("colours", Rollout(kind="canary", version="4", share=0.2))
    rollout = running.models["colours"]["rollout"]
    assert (rollout["version"], rollout["ended"]) == ("8", None)


def test_label_moves_without_a_moment_in_which_its_version_is_not_served(
    running: Followed,
) -> None:
    running.control.label("colours", "stable", "6")
    running.shown.clear()
    running.control.label("colours", "stable", "8")
    assert running.models["colours"]["labels"] == {"stable": "8"}
    assert running.served() == ["7", "8"]
    for models in running.shown:
        assert models["colours"]["labels"]["stable"] in models["colours"]["versions"]


@pytest.mark.parametrize("version", ["66", "5"])
def test_label_that_cannot_move_stays_and_its_version_goes_on(
    running: Followed, version: str
) -> None:
    running.control.label("colours", "stable", "6")
    running.shown.clear()
    with pytest.raises(RepositoryError, match=r"no version 66 on disk|colours 5 is refused"):
        running.control.label("colours", "stable", version)
    time.sleep(0.1)
    for models in running.shown:
        assert models["colours"]["labels"] == {"stable": "6"}
        assert "6" in models["colours"]["versions"]


def test_commands_at_once_are_carried_out_in_turn(running: Followed) -> None:
    """Each of them succeeds, although two of them ask for different versions."""
    with ThreadPoolExecutor() as pool:
        commands: list[Callable[[], object]] = [
            lambda: running.control.activate("colours", "6"),
            lambda: running.control.activate("colours", "8"),
            lambda: running.control.label("colours", "stable", "7"),
        ]
        for done in [pool.submit(command) for command in commands]:
            done.result()
    assert running.served()[0] in ("6", "8")
    assert running.models["colours"]["labels"] == {"stable": "7"}


def test_failed_command_does_not_undo_another_one(running: Followed) -> None:
    with ThreadPoolExecutor() as pool:
        failing = pool.submit(running.control.activate, "colours", "4")
        pool.submit(running.control.activate, "colours", "6").result()
        with pytest.raises(RepositoryError, match="colours 4 is refused"):
            failing.result()
    assert running.served() == ["6"]


def test_reading_does_not_wait_for_a_command(running: Followed) -> None:
    running.hung = True
    with ThreadPoolExecutor() as pool:
        command = pool.submit(running.control.activate, "colours", "6")
        time.sleep(0.05)
        started = time.monotonic()
        assert running.control.describe()["prepares"]
        assert running.control.index()
        assert time.monotonic() - started < 1
        running.hung = False
        command.result()


def test_activation_that_workers_do_not_follow_is_given_up(running: Followed) -> None:
    running.hung, running.control._timeout_s = True, 0.1
    with pytest.raises(RepositoryError, match="workers have not followed"):
        running.control.activate("colours", "6")
    running.hung = False
    time.sleep(0.2)
    assert running.ever_active() == {"7"}
    assert running.target()["colours"] == ["7"]


def test_default_model_is_not_unloaded(tmp_path: Path) -> None:
    """Another model would answer in its place, or the service would be unready."""
    for name in ("colours", "other"):
        write_artifact(tmp_path, name=name)
    with Followed(tmp_path, default="other") as running:
        running.hung = True
        running.alive = [103]
        with pytest.raises(RepositoryError, match="the workers are starting"):
            running.control.unload("other")
        running.alive, running.hung = [FIRST, SECOND], False
        while not running.coordinator.defaults():
            time.sleep(0.01)
        with pytest.raises(RepositoryError, match="with LIMELIGHT_DEFAULT_MODEL set to another"):
            running.control.unload("other")
        assert running.served("other") == ["1"]
        running.control.unload("colours")
        with pytest.raises(RepositoryError, match="other is the only model"):
            running.control.unload("other")


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (lambda control: control.label("other", "stable", "1"), "other is unloaded: load it first"),
        (
            lambda control: control.activate("colours", "9" * 99),
            r"no version 9{20} on disk \(there",
        ),
        (lambda control: control.load("nosuch"), "there is no model nosuch in LIMELIGHT_MODELS"),
        (lambda control: control.start("nosuch", CANARY), "there is no model nosuch"),
        (lambda control: control.start("other", CANARY), "other has no version 8 on disk"),
    ],
)
def test_failed_command_says_why(
    running: Followed, command: Callable[[Control], object], message: str
) -> None:
    running.control.unload("other")
    with pytest.raises(RepositoryError, match=message):
        command(running.control)


def test_model_of_which_the_policy_selects_nothing_names_the_policy(tmp_path: Path) -> None:
    for name in ("colours", "other"):
        write_artifact(tmp_path, name=name)
    with (
        Followed(tmp_path, policies="colours=specific:99") as running,
        pytest.raises(RepositoryError, match=r"LIMELIGHT_VERSIONS selects no .* are: 1\)"),
    ):
        running.control.load("colours")
