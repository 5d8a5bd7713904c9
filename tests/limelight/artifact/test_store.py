import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from limelight.artifact.store import ArtifactError, find_artifacts, load_artifact, newest_version
from tests.serving_kit import COLOURS, write_artifact


def test_an_intact_artefact_loads(tmp_path: Path) -> None:
    folder = write_artifact(tmp_path)
    artifact = load_artifact(folder)
    assert artifact.folder == folder
    assert artifact.manifest.classes == COLOURS
    assert artifact.onnx_path == folder / "model.onnx"


@pytest.mark.parametrize("given", [".", "../1", "../../colours/1"])
def test_relative_path_of_a_version_is_accepted(
    given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(write_artifact(tmp_path))
    assert load_artifact(newest_version(Path(given))).manifest.name == "colours"


@pytest.mark.parametrize("shape", [["N", 10, "h", "w"], ["N", 10], ["N", 10, 4, 0]])
def test_maps_without_a_fixed_size_are_rejected(shape: list[object], tmp_path: Path) -> None:
    folder = write_artifact(tmp_path)
    manifest = json.loads((folder / "manifest.json").read_text())
    (cams,) = (each for each in manifest["outputs"] if each["name"] == "cams")
    cams["shape"] = shape
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match="the shape of 'cams'"):
        load_artifact(folder)


def test_the_highest_number_is_the_newest_version(tmp_path: Path) -> None:
    for version in ("9", "10", "2"):
        write_artifact(tmp_path, version=version)
    write_artifact(tmp_path, name="other", version="3")
    (tmp_path / "colours" / ".staging").mkdir()
    (tmp_path / "colours" / ".staging" / "manifest.json").write_text("{}")
    (tmp_path / "colours" / "11").mkdir()  # without a manifest, like an unfinished export
    assert find_artifacts(tmp_path) == {
        "colours": tmp_path / "colours" / "10",
        "other": tmp_path / "other" / "3",
    }


def test_folder_without_artefacts_names_the_setting(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="LIMELIGHT_MODELS"):
        find_artifacts(tmp_path)
    with pytest.raises(ArtifactError, match="not a folder"):
        find_artifacts(tmp_path / "nowhere")


def test_flipped_bit_is_detected(tmp_path: Path) -> None:
    folder = write_artifact(tmp_path)
    content = bytearray((folder / "model.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "model.onnx").write_bytes(content)
    with pytest.raises(ArtifactError, match=r"model\.onnx has SHA-256"):
        load_artifact(folder)


def test_truncated_file_is_detected(tmp_path: Path) -> None:
    folder = write_artifact(tmp_path)
    content = (folder / "model.onnx").read_bytes()
    (folder / "model.onnx").write_bytes(content[:-1])
    with pytest.raises(ArtifactError, match=f"has {len(content) - 1} bytes"):
        load_artifact(folder)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    folder = write_artifact(tmp_path)
    (folder / "model.onnx").unlink()
    with pytest.raises(ArtifactError, match=r"model\.onnx is missing"):
        load_artifact(folder)
    (folder / "manifest.json").unlink()
    with pytest.raises(ArtifactError, match=r"manifest\.json is missing"):
        load_artifact(folder)


def test_unknown_schema_version_is_rejected_before_the_fields_are_validated(tmp_path: Path) -> None:
    folder = write_artifact(tmp_path, schema_version=2, surprise=True)
    with pytest.raises(ArtifactError, match="schema version 2, and this code reads 1"):
        load_artifact(folder)


@pytest.mark.parametrize("content", ["", "[1", "null", "[]", '"text"', "[" * 100_000])
def test_malformed_manifest_is_rejected(tmp_path: Path, content: str) -> None:
    folder = write_artifact(tmp_path)
    (folder / "manifest.json").write_text(content)
    with pytest.raises(ArtifactError, match=r"manifest\.json"):
        load_artifact(folder)


@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir, lambda path: path.symlink_to(path)])
def test_manifest_that_is_no_file_is_rejected(
    tmp_path: Path, make: Callable[[Path], object]
) -> None:
    """The attempt to read a pipe would never end."""
    folder = write_artifact(tmp_path)
    (folder / "manifest.json").unlink()
    make(folder / "manifest.json")
    with pytest.raises(ArtifactError, match=r"manifest\.json"):
        load_artifact(folder)


def test_an_invalid_field_is_named(tmp_path: Path) -> None:
    folder = write_artifact(tmp_path, opset="eighteen")
    with pytest.raises(ArtifactError, match="opset"):
        load_artifact(folder)


def test_file_name_outside_the_folder_is_rejected(tmp_path: Path) -> None:
    folder = write_artifact(tmp_path)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"] = {"../model.onnx": manifest["files"]["model.onnx"]}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match="files"):
        load_artifact(folder)


def test_folder_names_must_agree_with_the_manifest(tmp_path: Path) -> None:
    folder = write_artifact(tmp_path)
    moved = folder.rename(folder.with_name("2"))
    with pytest.raises(ArtifactError, match="colours/1"):
        load_artifact(moved)
    assert load_artifact(moved, in_place=False).manifest.version == "1"


def test_newest_version_of_a_models_folder_is_found(tmp_path: Path) -> None:
    for version in ("2", "10"):
        (tmp_path / "model" / version).mkdir(parents=True)
        (tmp_path / "model" / version / "manifest.json").touch()
    (tmp_path / "model" / "11").mkdir()
    newest = tmp_path / "model" / "10"
    assert newest_version(tmp_path / "model") == newest
    assert newest_version(newest) == newest
    assert newest_version(tmp_path / "nothing") == tmp_path / "nothing"


def test_method_without_its_output_is_rejected(tmp_path: Path) -> None:
    outputs = [
        {"name": name, "dtype": "float32", "shape": shape}
        for name, shape in (
            ("logits", ["batch", 3]),
            ("probabilities", ["batch", 3]),
            ("cams", ["batch", 3, 4, 4]),
        )
    ]
    folder = write_artifact(tmp_path, outputs=outputs)
    with pytest.raises(ArtifactError, match="layercam needs the output 'layercams'"):
        load_artifact(folder)
