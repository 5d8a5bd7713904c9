"""Versions on disk: complete ones are served, refused ones wait for a change."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from limelight.artifact.store import ArtifactError
from service.repository.versions_on_disk import VersionsOnDisk


def add(root: Path, version: str, graph: bytes = b"graph") -> Path:
    folder = root / "colours" / version
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "manifest.json").write_text("{}")
    (folder / "model.onnx").write_bytes(graph)
    return folder


@pytest.fixture
def versions(tmp_path: Path) -> VersionsOnDisk:
    add(tmp_path, "1")
    versions = VersionsOnDisk(tmp_path)
    assert versions.look(at_once=True) == set()
    return versions


def usable(versions: VersionsOnDisk, *served: str) -> list[str]:
    return list(versions.usable(served)["colours"])


def test_all_versions_can_be_served_at_the_start(tmp_path: Path) -> None:
    add(tmp_path, "1")
    add(tmp_path, "2")
    versions = VersionsOnDisk(tmp_path)
    versions.look()
    assert list(versions.usable()["colours"]) == ["2", "1"]
    assert usable(versions) == []


def test_version_can_be_served_when_two_looks_find_it_the_same(
    versions: VersionsOnDisk, tmp_path: Path
) -> None:
    add(tmp_path, "2")
    versions.look()
    assert usable(versions) == ["1"]
    add(tmp_path, "2", b"more of it")
    versions.look()
    assert usable(versions) == ["1"]
    versions.look()
    assert usable(versions) == ["2", "1"]


def test_version_can_be_served_at_once_on_request(versions: VersionsOnDisk, tmp_path: Path) -> None:
    add(tmp_path, "2")
    versions.look(at_once=True)
    assert usable(versions) == ["2", "1"]


def test_version_that_grows_during_a_look_is_not_served(
    versions: VersionsOnDisk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, looks = add(tmp_path, "2"), list[int]()
    iterdir = Path.iterdir

    def growing(path: Path) -> Iterator[Path]:
        if path == folder:
            looks.append(len(looks))
            add(tmp_path, "2", b"more" * (1 + len(looks)))
        return iterdir(path)

    monkeypatch.setattr(Path, "iterdir", growing)
    versions.look(at_once=True)
    assert looks == [0, 1]
    assert usable(versions) == ["1"]


def test_served_version_stays_while_its_files_change(
    versions: VersionsOnDisk, tmp_path: Path
) -> None:
    add(tmp_path, "1", b"another graph")
    versions.look()
    assert usable(versions, "colours/1") == ["1"]
    assert usable(versions) == []


def test_refused_version_is_tried_again_when_its_files_change(
    versions: VersionsOnDisk, tmp_path: Path
) -> None:
    add(tmp_path, "2")
    versions.look(at_once=True)
    versions.refuse("colours/2", "it is damaged" * 1000)
    assert versions.look() == set()
    assert usable(versions) == ["1"]
    assert versions.refused["colours/2"].startswith("it is damaged")
    assert len(versions.refused["colours/2"]) == 2000
    add(tmp_path, "2", b"repaired")
    assert versions.look(at_once=True) == {"colours/2"}
    assert usable(versions) == ["2", "1"]
    assert versions.refused == {}


def test_refused_version_is_tried_again_on_request(versions: VersionsOnDisk) -> None:
    versions.refuse("colours/1", "it is too large")
    assert usable(versions) == []
    versions.allow(["colours/1", "colours/9"])
    assert usable(versions) == ["1"]


def test_size_of_a_version_is_that_of_its_largest_graph(
    versions: VersionsOnDisk, tmp_path: Path
) -> None:
    (add(tmp_path, "1") / "model.int8.onnx").write_bytes(b"12")
    (tmp_path / "colours" / "1" / "golden.npz").write_bytes(b"no graph, though large")
    versions.look()
    assert versions.sizes() == {"colours/1": len(b"graph")}


def test_folder_that_is_gone_is_an_error_and_the_last_look_stays(
    versions: VersionsOnDisk, tmp_path: Path
) -> None:
    for path in sorted(tmp_path.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    with pytest.raises(ArtifactError):
        versions.look()
    assert usable(versions) == ["1"]
