"""Signing of an artefact with OpenSSF model signing, by a key or by a certificate, offline."""

from collections.abc import Sequence
from pathlib import Path

from limelight.artifact.signature_file import SIGNATURE_FILE
from limelight.artifact.signatures import hashing_config
from limelight.artifact.store import Artifact
from pipeline.atomic_files import replacing
from pipeline.errors import PipelineError


def sign(
    artifact: Artifact,
    key: Path,
    *,
    certificate: Path | None = None,
    chain: Sequence[Path] = (),
) -> Path:
    """Write the signature of an artefact into its folder, and return its path.

    Nothing else changes. An older signature is replaced.

    Args:
        artifact: artefact to sign.
        key: private elliptic-curve key, PEM, without a password.
        certificate: certificate of that key, PEM; without one, the public key verifies.
        chain: certificates between that one and the authority, PEM.

    Raises:
        PipelineError: the key or a certificate cannot be used, or the folder has a link.
        ModuleNotFoundError: the extra `sign` is not installed.

    """
    from model_signing.signing import Config

    config = Config().set_hashing_config(hashing_config())
    file = artifact.folder / SIGNATURE_FILE
    try:
        if certificate is None:
            config.use_elliptic_key_signer(private_key=key)
        else:
            config.use_certificate_signer(
                private_key=key, signing_certificate=certificate, certificate_chain=chain
            )
    except (OSError, ValueError, TypeError, AttributeError) as error:
        # An RSA or Ed25519 key has no curve.
        reason = "no elliptic curve" if isinstance(error, AttributeError) else error
        raise PipelineError(
            f"{key} cannot sign ({reason}): give a private key on the curve P-256, P-384 or P-521 "
            "in PEM, without a password, and certificates that belong to it"
        ) from error
    try:
        with replacing(file) as part:
            config.sign(artifact.folder.resolve(), part)
    except (OSError, ValueError) as error:
        raise PipelineError(f"{artifact.folder} cannot be signed: {error}") from error
    return file
