"""Signatures of the models: checked before a version is loaded, if a setting says so."""

import logging
from typing import Any

from limelight.artifact.signature_file import SignatureError
from limelight.artifact.signatures import verify_signature
from limelight.artifact.store import Artifact
from service.settings import Settings

logger = logging.getLogger("limelight.registry")


def check_signature(artifact: Artifact, settings: Settings) -> dict[str, Any]:
    """Verify who signed an artefact, and return the `signature` of `/models`.

    Raises:
        SignatureError: no trusted key signed it, and signatures are required.
    """
    manifest = artifact.manifest
    trusted = () if settings.trusted_keys is None else (settings.trusted_keys,)
    try:
        signature = verify_signature(artifact, *trusted)
    except SignatureError as error:
        if settings.signatures == "require":
            raise
        logger.warning(
            "model %s %s is served, and its signature is not verified: %s",
            *(manifest.name, manifest.version, error),
        )
        return {"verified": False, "problem": str(error)}
    logger.info(
        "model %s %s is signed by the trusted %s %s",
        *(manifest.name, manifest.version, signature.method, signature.key),
    )
    return {"verified": True, "method": signature.method, "key": signature.key}
