"""Content of `model.sig`: a Sigstore bundle, read strictly and with limits.

The bundle has a DSSE envelope, whose payload is an in-toto statement: the SHA-256 of every file of
the artefact. Nothing here is trusted before the library `model-signing` has verified it.
"""

import base64
import json
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from limelight.artifact.store import ArtifactError

SIGNATURE_FILE = "model.sig"
_MAX_BYTES = 1_000_000


class SignatureError(ArtifactError):
    """The artefact is not signed by a trusted key; the message says what to do."""


class _Strict(BaseModel):
    """Object without other fields: the library must not read what is not checked here."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")


class _Signed(_Strict):
    sig: str
    keyid: str | None = None


class _Envelope(_Strict):
    payload: str
    payloadType: str  # noqa: N815  # the format's name
    signatures: Annotated[list[_Signed], Field(min_length=1, max_length=1)]


class _PublicKey(_Strict):
    hint: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Certificate(_Strict):
    rawBytes: str  # noqa: N815


class _Chain(_Strict):
    certificates: Annotated[list[_Certificate], Field(min_length=1, max_length=20)]


class _Material(_Strict):
    publicKey: _PublicKey | None = None  # noqa: N815
    x509CertificateChain: _Chain | None = None  # noqa: N815
    tlogEntries: list[Any] = []  # noqa: N815


class _Bundle(_Strict):
    mediaType: str  # noqa: N815
    verificationMaterial: _Material  # noqa: N815
    dsseEnvelope: _Envelope  # noqa: N815


class _Resource(BaseModel):
    name: str
    algorithm: str
    digest: str


class _Predicate(BaseModel):
    resources: list[_Resource]


class _Statement(BaseModel):
    predicate: _Predicate


@dataclass(frozen=True, slots=True)
class SignatureFile:
    """Signature that has been read, and not been verified.

    Attributes:
        content: bytes of the file.
        digests: SHA-256 of each signed file, by its path in the folder.
        key: SHA-256 of the public key (PEM) that it names; None with a certificate.
        certificate: certificate (DER) that it names; None with a key.
    """

    path: Path
    content: bytes = field(repr=False)
    digests: dict[str, str]
    key: str | None
    certificate: bytes | None


def read_signature(folder: Path) -> SignatureFile:
    """Read the signature of the artefact in `folder`.

    Raises:
        SignatureError: there is none, or it is malformed or too large.
    """
    path = folder / SIGNATURE_FILE
    content = _read(path)
    try:
        bundle = _Bundle.model_validate(json.loads(content.decode()))
        material, payload = bundle.verificationMaterial, _decoded(bundle.dsseEnvelope.payload)
        if (material.publicKey is None) == (material.x509CertificateChain is None):
            raise ValueError("it names no public key and no certificate")
        statement = _Statement.model_validate_json(payload)
        chain = material.x509CertificateChain
        return SignatureFile(
            path=path,
            content=content,
            digests={
                each.name: each.digest if each.algorithm == "sha256" else ""
                for each in statement.predicate.resources
            },
            key=None if material.publicKey is None else material.publicKey.hint,
            certificate=None if chain is None else _decoded(chain.certificates[0].rawBytes),
        )
    except (ValueError, RecursionError) as error:
        raise SignatureError(
            f"{path} is not a signature ({_reason(error)}): sign the version again"
        ) from error


def _read(path: Path) -> bytes:
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            raise SignatureError(f"{path} is not a file: sign the version again")
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
    except FileNotFoundError as error:
        raise SignatureError(
            f"{path.parent} is not signed ({SIGNATURE_FILE} is missing): sign it with `limelight "
            "sign`"
        ) from error
    except OSError as error:
        raise SignatureError(f"{path} cannot be read: {error.strerror}") from error
    if len(content) > _MAX_BYTES:
        raise SignatureError(
            f"{path} is not a signature (it has more than {_MAX_BYTES:,} bytes): sign the version "
            "again"
        )
    return content


def _decoded(text: str) -> bytes:
    """Decode base64 without other characters, which the library would skip."""
    return base64.b64decode(text, validate=True)


def _reason(error: Exception) -> str:
    if not isinstance(error, ValidationError):
        return str(error)[:200]
    first = error.errors(include_url=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    return f"{place[:100]}: {first['msg'][:100]}"
