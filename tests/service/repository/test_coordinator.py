"""Coordinator: two steps to a change, with workers that only report."""

import shutil
from pathlib import Path

import pytest

from service.repository.coordinator import Coordinator
from service.repository.memory_bound import MemoryBound
from service.repository.plan import Report, State
from service.repository.shared_json import SharedJson
from service.repository.version_policy import VersionPolicies
from tests.serving_kit import write_artifact

FIRST, SECOND = 101, 102


class Bench:
    """A coordinator, the memory it shares, and the workers that are alive."""

    def __init__(
        self, root: Path, *, policies: str = "latest", max_bytes: int | None = None
    ) -> None:
        self.root = root
        self.alive = [FIRST, SECOND]
        self.shared = SharedJson.create(workers=2)
        self.coordinator = Coordinator(
            root,
            VersionPolicies.parse(policies),
            self.shared,
            workers=2,
            alive=lambda: self.alive,
            poll_s=1e-9,
            bound=MemoryBound(max_bytes),
        )

    @property
    def state(self) -> State:
        return State.from_json(self.shared.read(0))

    def active(self) -> dict[str, list[str]]:
        return {name: list(versions) for name, versions in self.state.active.models.items()}

    def target(self) -> dict[str, list[str]]:
        return {name: list(versions) for name, versions in self.state.target.models.items()}

    def report(
        self, *pids: int, failed: dict[str, str] | None = None, memory: dict[str, int] | None = None
    ) -> None:
        """Report for workers that they have prepared the present target."""
        generation = self.state.target.generation
        for pid in pids:
            found = Report(pid, generation, failed or {}, memory=memory or {})
            self.shared.write({FIRST: 1, SECOND: 2}[pid], found.to_json())

    def step(self, times: int = 1) -> None:
        for _ in range(times):
            self.coordinator.step()


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    write_artifact(tmp_path, version="1")
    bench = Bench(tmp_path)
    bench.report(FIRST, SECOND)
    return bench


def test_new_version_is_served_when_every_worker_has_prepared_it(bench: Bench) -> None:
    assert bench.active() == {"colours": ["1"]}
    write_artifact(bench.root, version="2")
    bench.step(2)  # seen, and unchanged since
    assert bench.target() == {"colours": ["2"]}
    assert bench.active() == {"colours": ["1"]}
    bench.report(FIRST)
    bench.step()
    assert bench.active() == {"colours": ["1"]}
    bench.report(SECOND)
    bench.step()
    assert bench.active() == {"colours": ["2"]}


def test_version_that_is_still_being_copied_is_not_prepared(bench: Bench) -> None:
    folder = write_artifact(bench.root, version="2")
    for size in range(3):
        (folder / "model.onnx").write_bytes(b"x" * size)
        bench.step()
        assert bench.target() == {"colours": ["1"]}


def test_version_that_one_worker_cannot_load_is_refused_and_the_old_one_goes_on(
    bench: Bench,
) -> None:
    write_artifact(bench.root, version="2")
    bench.step(2)
    bench.report(FIRST)
    bench.report(SECOND, failed={"colours/2": "damaged"})
    bench.step()
    assert bench.state.refused == {"colours/2": "damaged"}
    bench.report(FIRST, SECOND)
    bench.step(3)
    assert bench.active() == bench.target() == {"colours": ["1"]}


def test_refused_version_is_tried_again_when_its_files_change(bench: Bench) -> None:
    folder = write_artifact(bench.root, version="2")
    bench.step(2)
    bench.report(FIRST, SECOND, failed={"colours/2": "damaged"})
    bench.step()
    bench.report(FIRST, SECOND)
    bench.step()
    (folder / "README.md").write_text("repaired")
    bench.step(2)
    assert bench.target() == {"colours": ["2"]}
    bench.report(FIRST, SECOND)
    bench.step()
    assert bench.active() == {"colours": ["2"]}
    assert bench.state.refused == {}


def test_only_version_is_tried_again_when_it_is_repaired(bench: Bench) -> None:
    """It failed at the start of the service, so nothing else can be served."""
    bench.report(FIRST, SECOND, failed={"colours/1": "damaged"})
    bench.step()
    assert bench.state.refused == {"colours/1": "damaged"}
    generation = bench.state.target.generation
    (bench.root / "colours" / "1" / "README.md").write_text("repaired")
    bench.step(2)
    assert bench.state.target.generation > generation
    assert bench.target() == {"colours": ["1"]}


def test_older_version_is_served_if_the_newest_fails_at_the_start(tmp_path: Path) -> None:
    write_artifact(tmp_path, version="1")
    write_artifact(tmp_path, version="2")
    bench = Bench(tmp_path)
    bench.report(FIRST, SECOND, failed={"colours/2": "damaged"})
    bench.step()
    assert bench.target() == {"colours": ["1"]}


def test_worker_that_died_is_not_waited_for_and_its_successor_is(bench: Bench) -> None:
    write_artifact(bench.root, version="2")
    bench.step(2)
    bench.report(FIRST)
    bench.alive = [FIRST, 103]
    bench.step()
    assert bench.active() == {"colours": ["1"]}
    bench.shared.write(2, Report(103, bench.state.target.generation).to_json())
    bench.step()
    assert bench.active() == {"colours": ["2"]}


def test_removed_version_is_replaced_and_a_removed_model_ends(bench: Bench) -> None:
    write_artifact(bench.root, version="2")
    write_artifact(bench.root, name="other")
    bench.step(2)
    bench.report(FIRST, SECOND)
    bench.step()
    shutil.rmtree(bench.root / "colours" / "2")
    shutil.rmtree(bench.root / "other")
    bench.step(2)
    assert bench.target() == {"colours": ["1"]}


def test_folder_that_vanishes_for_a_moment_changes_nothing(bench: Bench) -> None:
    hidden = bench.root.with_name("hidden")
    bench.root.rename(hidden)
    bench.step(2)
    assert bench.target() == bench.active() == {"colours": ["1"]}
    hidden.rename(bench.root)
    bench.step(2)
    assert bench.state.target.generation == 1


def test_folder_without_models_is_a_problem_until_there_is_one(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    assert "holds no artefact" in str(bench.state.problem)
    write_artifact(tmp_path)
    bench.step(3)
    assert bench.target() == {"colours": ["1"]}
    assert bench.state.problem is None


def test_policy_that_selects_nothing_is_the_problem(tmp_path: Path) -> None:
    for version in ("1", "2"):
        write_artifact(tmp_path, version=version)
    write_artifact(tmp_path, name="other")
    bench = Bench(tmp_path, policies="specific:99")
    assert bench.active() == {}
    assert bench.state.problem == (
        "LIMELIGHT_VERSIONS selects none of the versions in LIMELIGHT_MODELS: colours 2, 1; other 1"
    )


def test_policy_selects_what_is_prepared(tmp_path: Path) -> None:
    for version in ("1", "2", "3"):
        write_artifact(tmp_path, version=version)
    assert Bench(tmp_path, policies="latest:2").active() == {"colours": ["3", "2"]}
    assert Bench(tmp_path, policies="colours=specific:1").active() == {"colours": ["1"]}


def test_version_that_takes_too_much_memory_is_refused_and_the_old_one_goes_on(
    tmp_path: Path,
) -> None:
    write_artifact(tmp_path, version="1")
    bench = Bench(tmp_path, max_bytes=50_000)
    bench.report(FIRST, SECOND, memory={"colours/1": 20_000})
    bench.step()
    write_artifact(bench.root, version="2")
    bench.step(2)
    assert bench.target() == {"colours": ["2"]}  # its graph is small
    bench.report(FIRST, memory={"colours/2": 60_000})
    bench.step()
    assert bench.state.refused == {}
    bench.report(SECOND, memory={"colours/2": 60_000})
    bench.step()
    assert "takes 60,000 bytes" in bench.state.refused["colours/2"]
    bench.report(FIRST, SECOND)
    bench.step(3)
    assert bench.active() == bench.target() == {"colours": ["1"]}


def test_models_of_the_start_are_measured_and_the_rest_goes_on(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_artifact(tmp_path, name=name)
    bench = Bench(tmp_path, max_bytes=50_000)
    bench.report(FIRST, SECOND, memory={"a/1": 30_000, "b/1": 30_000})
    bench.step()
    assert bench.target() == {"a": ["1"]}
    assert "b/1" in bench.state.refused
    bench.report(FIRST, SECOND)
    bench.step(3)
    assert bench.active() == {"a": ["1"]}
    # A worker that is replaced may measure another value: nothing changes.
    bench.report(FIRST, SECOND, memory={"a/1": 90_000})
    bench.step(3)
    assert bench.active() == bench.target() == {"a": ["1"]}


def test_one_model_is_kept_if_each_of_them_takes_too_much(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        write_artifact(tmp_path, name=name)
    bench = Bench(tmp_path, max_bytes=50_000)
    bench.report(FIRST, SECOND, memory={"a/1": 60_000, "b/1": 70_000, "c/1": 80_000})
    bench.step(3)
    assert bench.target() == {"a": ["1"]}
    bench.report(FIRST, SECOND)
    bench.step(3)
    assert bench.active() == bench.target() == {"a": ["1"]}
    assert bench.state.refused.keys() == {"b/1", "c/1"}


def test_only_model_whose_graph_exceeds_the_bound_makes_the_service_unready(tmp_path: Path) -> None:
    write_artifact(tmp_path)
    bench = Bench(tmp_path, max_bytes=10)
    assert bench.active() == {}
    assert "LIMELIGHT_MAX_MODEL_BYTES is 10" in str(bench.state.problem)
