"""Verification of signed artefacts (OpenSSF model signing), by key or by certificate, offline.

The library `model-signing` (extra `sign`) checks the signature and hashes the folder. The checks
before it bound what that costs, and tie the signature to the manifest that has been loaded: the
manifest has the digest of every file, and each file is verified again when it is read.
"""

import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Literal

from limelight.artifact.manifest import MANIFEST_FILE
from limelight.artifact.signature_file import (
    SIGNATURE_FILE,
    SignatureError,
    SignatureFile,
    read_signature,
)
from limelight.artifact.store import Artifact
from limelight.artifact.trusted_keys import TrustedKeys, TrustedKeysError, read_trusted_keys

if TYPE_CHECKING:
    from model_signing.hashing import Config

MISSING_EXTRA = "signatures need the extra `sign`: pip install 'limelight[sign]'"
# Files that the manifest does not list, such as the model card, are hashed before they are known.
_MAX_OTHER_BYTES = 64_000_000


@dataclass(frozen=True, slots=True)
class Signature:
    """Verified signature of an artefact."""

    method: Literal["key", "certificate"]
    key: str
    """SHA-256 of the public key (PEM), or of the signing certificate (DER)."""


def verify_signature(artifact: Artifact, *trusted: Path) -> Signature:
    """Check that a trusted key, or a certificate of a trusted authority, signed the artefact.

    Args:
        artifact: artefact that has been loaded.
        trusted: PEM files, or folders of them; see `read_trusted_keys`.

    Raises:
        SignatureError: it is not signed by one of them, or the folder is not what was signed.
    """
    signature = read_signature(artifact.folder)
    _check_folder(artifact, signature)
    try:
        keys = read_trusted_keys(*trusted)
        _verify(artifact.folder, signature, keys)
        if signature.key is not None:
            return Signature("key", signature.key)
        return Signature("certificate", _fingerprint(signature))
    except ModuleNotFoundError as error:
        raise SignatureError(MISSING_EXTRA) from error
    except TrustedKeysError as error:
        raise SignatureError(str(error)) from error
    except OSError as error:  # of a trusted key, or of the folder of temporary files
        raise SignatureError(
            f"{signature.path} cannot be verified ({error}): check {error.filename}"
        ) from error


def hashing_config() -> "Config":
    """Return how a folder is hashed: every file but the signature, and no link."""
    from model_signing.hashing import Config

    # One thread: the others answer requests.
    config = Config().use_file_serialization(hashing_algorithm="sha256", max_workers=1)
    return config.set_ignored_paths(paths=[SIGNATURE_FILE], ignore_git_paths=False)


def _check_folder(artifact: Artifact, signature: SignatureFile) -> None:
    """Check that the folder has the files that are signed, and that the manifest is one of them."""
    folder, digests, listed = artifact.folder, signature.digests, artifact.manifest.files
    if digests.get(MANIFEST_FILE) != artifact.digest:
        raise SignatureError(
            f"{folder / MANIFEST_FILE} is not the one that {SIGNATURE_FILE} was made for: one of "
            "them was altered; restore it, or sign the version again"
        )
    other_bytes = sum(
        entry.stat().st_size for name, entry in _signed_files(folder, digests) if name not in listed
    )
    if other_bytes > _MAX_OTHER_BYTES:
        raise SignatureError(
            f"{folder} has {other_bytes:,} bytes beside the files of its manifest, and at most "
            f"{_MAX_OTHER_BYTES:,} are verified: remove them, and sign the version again"
        )


def _signed_files(
    folder: Path, digests: Mapping[str, str]
) -> Iterator[tuple[str, "os.DirEntry[str]"]]:
    """Yield each file of the folder but the signature, with its path relative to it.

    Raises:
        SignatureError: the folder has a link, or something that is not signed.
    """
    folders = {str(parent) for name in digests for parent in PurePosixPath(name).parents}
    places = [folder]
    try:
        while places:
            with os.scandir(places.pop()) as entries:
                for entry in entries:
                    name = Path(entry.path).relative_to(folder).as_posix()
                    if entry.is_symlink():
                        raise SignatureError(
                            f"{_shown(entry.path)} is a link: replace it by the file"
                        )
                    if name in folders and entry.is_dir():
                        places.append(Path(entry.path))
                    elif name in digests and entry.is_file():
                        yield name, entry
                    elif name != SIGNATURE_FILE:
                        raise SignatureError(
                            f"{_shown(entry.path)} is not signed by {SIGNATURE_FILE}: remove it, "
                            "or sign the version again"
                        )
    except OSError as error:
        raise SignatureError(f"{folder} cannot be read: {error.strerror}") from error


def _shown(path: str) -> str:
    """Return a path that can be encoded, for logs and answers: not all file names are UTF-8."""
    return os.fsencode(path).decode(errors="backslashreplace")


def _verify(folder: Path, signature: SignatureFile, keys: TrustedKeys) -> None:
    from model_signing.verifying import Config

    config = Config().set_hashing_config(hashing_config())
    if signature.key is not None:
        if signature.key not in keys.keys:
            raise SignatureError(
                f"{signature.path} was made with the key {signature.key[:16]}, which is not "
                "trusted: trust its public key, or sign the version with a trusted one"
            )
        config.use_elliptic_key_verifier(public_key=keys.keys[signature.key])
    elif keys.certificates:
        config.use_certificate_verifier(certificate_chain=keys.certificates)
    else:  # the library would trust the authorities of the web instead
        raise SignatureError(
            f"{signature.path} was made with a certificate, and no certificate is trusted: trust "
            "that of its authority"
        )
    # The library opens a file: it gets the bytes that were checked.
    with tempfile.TemporaryDirectory(prefix="limelight-signature-") as place:
        copy = Path(place, SIGNATURE_FILE)
        copy.write_bytes(signature.content)
        try:
            config.verify(folder.resolve(), copy)
        except Exception as error:  # the library documents none, and raises those of five others
            raise SignatureError(
                f"{signature.path} does not verify ({_reason(error)}): the version was altered, or "
                "its signature; restore it, or sign it again"
            ) from error


def _reason(error: Exception) -> str:
    said = str(error)
    if altered := re.findall(r"Hash mismatch for '([^']{1,200})'", said):
        return f"{', '.join(altered[:5])} is not what was signed"
    # An InvalidSignature says nothing.
    return said[:300] or "it is not that of its key"


def _fingerprint(signature: SignatureFile) -> str:
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.x509 import load_der_x509_certificate

    return load_der_x509_certificate(signature.certificate or b"").fingerprint(SHA256()).hex()
