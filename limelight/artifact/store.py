"""Discovery, loading and verification of the artefacts on disk."""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from limelight.artifact.manifest import MANIFEST_FILE, SCHEMA_VERSION, Manifest
from limelight.artifact.onnx_file import external_files

_VERSION_FOLDER = re.compile(r"[0-9]{1,9}")
_NAME_FOLDER = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")


class ArtifactError(Exception):
    """The artefact cannot be served; the message names the file and says what to do."""


@dataclass(frozen=True, slots=True)
class OnnxGraph:
    """Verified bytes of an ONNX file, and of the files in which it keeps weights, by name."""

    path: Path
    """Place that the bytes were read from, for messages."""
    content: bytes = field(repr=False)
    external: Mapping[str, bytes] = field(repr=False, default_factory=dict)


@dataclass(frozen=True, slots=True)
class Artifact:
    """Artefact folder whose files match the sizes and digests in its manifest.

    A file can change after it was verified. So load what `read` and `graph` return: they verify the
    same bytes that they return.
    """

    folder: Path
    manifest: Manifest
    digest: str = ""
    """SHA-256 of `manifest.json`, which has that of every other file; empty for a draft."""

    @property
    def onnx_path(self) -> Path:
        """Path of the file that the service runs."""
        return self.folder / self.manifest.onnx_file

    @property
    def fp16_path(self) -> Path | None:
        """Path of the fp16 file that the service can run instead; None if there is none."""
        name = self.manifest.fp16_file
        return None if name is None else self.folder / name

    @property
    def layercam_path(self) -> Path | None:
        """Path of the file that the service runs for LayerCAM maps; None if there is none."""
        name = self.manifest.layercam_file
        return None if name is None else self.folder / name

    def read(self, name: str) -> bytes:
        """Read a file that the manifest lists, and verify the bytes that were read.

        Raises:
            ArtifactError: the file is missing or altered.
        """
        path, expected = self.folder / name, self.manifest.files[name]
        try:
            content = path.read_bytes()
        except OSError as error:
            raise _unreadable(path, error) from error
        _check_size(path, len(content), expected.bytes)
        _check_sha256(path, hashlib.sha256(content).hexdigest(), expected.sha256)
        return content

    def graph(self, name: str) -> OnnxGraph:
        """Read an ONNX file that the manifest lists, and the files in which it keeps weights.

        Raises:
            ArtifactError: a file is missing, altered or not in the manifest, or no ONNX graph.
        """
        path, content = self.folder / name, self.read(name)
        try:
            external = external_files(content)
        except ValueError as error:
            raise ArtifactError(f"{path} is not an ONNX graph ({error}): export again") from error
        for file in sorted(external - self.manifest.files.keys()):
            raise ArtifactError(
                f"{path} keeps weights in {file!r}, which its manifest does not list, so that they "
                "cannot be verified: export the run again, or save the graph as one file"
            )
        return OnnxGraph(path, content, {file: self.read(file) for file in sorted(external)})


def shipped_models() -> Path:
    """Return the folder of the shipped models, which is next to the packages."""
    return Path(__file__).resolve().parents[2] / "zoo"


def find_artifacts(root: Path) -> dict[str, Path]:
    """Find the newest version of each model: name -> folder `root`/NAME/VERSION.

    The newest version has the highest number.

    Raises:
        ArtifactError: see `find_versions`.
    """
    return {name: next(iter(versions.values())) for name, versions in find_versions(root).items()}


def find_versions(root: Path) -> dict[str, dict[str, Path]]:
    """Find every version of each model: name -> version, newest first -> `root`/NAME/VERSION.

    Folders with other names (such as the staging folder of an export) and folders without a
    manifest are ignored.

    Raises:
        ArtifactError: `root` is not a folder, cannot be read, or contains no artefact.
    """
    if not root.is_dir():
        raise ArtifactError(f"{root} is not a folder: set LIMELIGHT_MODELS to one with artefacts")
    found: dict[str, dict[str, Path]] = {}
    for manifest_file in sorted(root.glob(f"*/*/{MANIFEST_FILE}")):
        folder = manifest_file.parent
        name = folder.parent.name
        if _NAME_FOLDER.fullmatch(name) and _VERSION_FOLDER.fullmatch(folder.name):
            found.setdefault(name, {})[folder.name] = folder
    if not found:
        raise ArtifactError(
            f"{root} holds no artefact (NAME/VERSION/{MANIFEST_FILE}): "
            "export a run into it, or set LIMELIGHT_MODELS to a folder with artefacts"
        )
    return {
        name: dict(sorted(versions.items(), key=lambda each: int(each[0]), reverse=True))
        for name, versions in found.items()
    }


def newest_version(path: Path) -> Path:
    """Return the newest version in a model's folder.

    Return `path` itself if it is an artefact, or if it contains none.
    """
    if (path / MANIFEST_FILE).is_file():
        return path
    versions = [
        file.parent
        for file in path.glob(f"*/{MANIFEST_FILE}")
        if _VERSION_FOLDER.fullmatch(file.parent.name)
    ]
    return max(versions, key=lambda version: int(version.name), default=path)


def load_artifact(folder: Path, *, in_place: bool = True) -> Artifact:
    """Parse the manifest in `folder` and verify the size and SHA-256 of every file it lists.

    With `in_place`, the folder must be named after the version, and its parent after the model. An
    export sets `in_place=False` to check its staging folder.

    Raises:
        ArtifactError: a file is missing, truncated or altered, or the schema version is not
            supported.
    """
    manifest, digest = _read_manifest(folder / MANIFEST_FILE)
    place = Path(os.path.abspath(folder))  # noqa: PTH100  # a mounted folder may be a link
    if in_place and (place.parent.name, place.name) != (manifest.name, manifest.version):
        raise ArtifactError(
            f"{folder}: the manifest is that of {manifest.name}/{manifest.version}: "
            "move the folder to that place, or export the run again"
        )
    for file_name, expected in manifest.files.items():
        _verify(folder / file_name, size=expected.bytes, sha256=expected.sha256)
    return Artifact(folder=folder, manifest=manifest, digest=digest)


def _read_manifest(path: Path) -> tuple[Manifest, str]:
    """Return the manifest, and the SHA-256 of the bytes that it was read from."""
    try:
        if path.exists() and not path.is_file():  # a pipe would be read for ever
            raise ArtifactError(f"{path} is not a file: restore it or export again")
        read = path.read_bytes()
        content = json.loads(read.decode())
    except FileNotFoundError as error:
        raise ArtifactError(f"{path} is missing: export the run again") from error
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{path} is not JSON ({error}): restore it or export again") from error
    version = content.get("schema_version") if isinstance(content, dict) else None
    if version != SCHEMA_VERSION:
        raise ArtifactError(
            f"{path} has schema version {version!r}, and this code reads {SCHEMA_VERSION}: "
            "export the run with this version of Limelight, or update Limelight"
        )
    try:
        manifest = Manifest.model_validate_json(json.dumps(content))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "manifest"
        raise ArtifactError(f"{path} is not valid: {place}: {first['msg']}") from error
    return manifest, hashlib.sha256(read).hexdigest()


def _verify(path: Path, *, size: int, sha256: str) -> None:
    try:
        _check_size(path, path.stat().st_size, size)
        with path.open("rb") as file:
            actual_sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise _unreadable(path, error) from error
    _check_sha256(path, actual_sha256, sha256)


def _unreadable(path: Path, error: OSError) -> ArtifactError:
    if isinstance(error, FileNotFoundError):
        return ArtifactError(f"{path} is missing: restore it or export the run again")
    return ArtifactError(f"{path} cannot be read: {error.strerror}")


def _check_size(path: Path, actual: int, expected: int) -> None:
    if actual != expected:
        raise ArtifactError(
            f"{path} has {actual} bytes, and its manifest says {expected}: "
            "restore the file (a Git LFS pointer? a partial copy?) or export again"
        )


def _check_sha256(path: Path, actual: str, expected: str) -> None:
    if actual != expected:
        raise ArtifactError(
            f"{path} has SHA-256 {actual}, and its manifest says {expected}: "
            "the file was altered or damaged; restore it or export the run again"
        )
