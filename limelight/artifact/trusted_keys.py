"""Trusted keys: files of public keys and of root certificates that may sign artefacts."""

import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path

_MAX_BYTES = 1_000_000
_MAX_FILES = 1000
_BLOCK = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----.+?-----END \1-----", re.DOTALL)
_KEY, _CERTIFICATE = b"PUBLIC KEY", b"CERTIFICATE"


class TrustedKeysError(Exception):
    """The trusted keys cannot be used; the message names the file and says what to do."""


@dataclass(slots=True)
class TrustedKeys:
    """Public keys by their SHA-256, and certificates of authorities, as files."""

    keys: dict[str, Path] = field(default_factory=dict)
    certificates: list[Path] = field(default_factory=list)


def read_trusted_keys(*paths: Path) -> TrustedKeys:
    """Find the public keys and certificates in PEM files, or in folders of them.

    Hidden files of a folder are skipped, as Kubernetes mounts them beside a secret.

    Raises:
        TrustedKeysError: a file cannot be read, or is neither a key nor a certificate.
        ModuleNotFoundError: the extra `sign` is not installed.
    """
    found = TrustedKeys()
    for path in paths:
        for file in _files(path):
            _add(found, file)
    return found


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    try:
        files = sorted(file for file in path.iterdir() if file.name[:1] != "." and file.is_file())
    except OSError as error:
        raise TrustedKeysError(f"{path} cannot be read: {error.strerror}") from error
    if not 0 < len(files) <= _MAX_FILES:
        raise TrustedKeysError(f"{path} has {len(files)} files: put 1 to {_MAX_FILES} keys in it")
    return files


def _add(found: TrustedKeys, file: Path) -> None:
    """Add what a file holds: certificates, or one public key."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.x509 import load_pem_x509_certificates

    content = _read(file)
    kinds = [match[1] for match in _BLOCK.finditer(content)]
    try:
        if kinds and set(kinds) == {_CERTIFICATE}:
            load_pem_x509_certificates(content)
            found.certificates.append(file)
            return
        if kinds != [_KEY]:
            raise ValueError("one public key, or certificates, are expected in PEM")
        key = serialization.load_pem_public_key(content)
        if not isinstance(key, EllipticCurvePublicKey):
            raise ValueError("it is no elliptic-curve key, as P-256")
    except ValueError as error:
        raise TrustedKeysError(f"{file} is not a trusted key ({error}): replace it") from error
    pem = key.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    found.keys[hashlib.sha256(pem).hexdigest()] = file


def _read(file: Path) -> bytes:
    if file.exists() and not file.is_file():  # a pipe would be read for ever
        raise TrustedKeysError(f"{file} is not a file: give a file of a public key")
    try:
        with file.open("rb") as opened:
            content = opened.read(_MAX_BYTES + 1)
    except OSError as error:
        raise TrustedKeysError(f"{file} cannot be read: {error.strerror}") from error
    if len(content) > _MAX_BYTES:
        raise TrustedKeysError(f"{file} has more than {_MAX_BYTES:,} bytes: it is not a key")
    return content
