"""`limelight sign`."""

from pathlib import Path
from typing import Annotated

import typer

from limelight.artifact.store import ArtifactError, load_artifact, newest_version
from pipeline.errors import PipelineError


def sign(
    artifacts: Annotated[
        list[Path],
        typer.Argument(help="folders of versions, or of a model: then its newest version"),
    ],
    key: Annotated[Path, typer.Option(help="private key (PEM, P-256, P-384 or P-521)")],
    certificate: Annotated[
        Path | None, typer.Option(help="certificate of the key (PEM); goes into the signature")
    ] = None,
    chain: Annotated[
        list[Path],
        typer.Option(help="certificates from there to the authority (PEM); repeatable"),
    ] = [],  # noqa: B006  # typer copies it
) -> None:
    """Sign artefacts, so that a service can refuse others; prints their digests.

    Example: limelight sign artifacts/my-photos --key limelight.key
    """
    from pipeline.exporting.signing import sign as sign_artifact

    if (certificate is None) != (not chain):
        raise PipelineError("--certificate and --chain go together: give both, or neither")
    try:
        for path in artifacts:
            artifact = load_artifact(newest_version(path))
            sign_artifact(artifact, key, certificate=certificate, chain=chain)
            print(f"{artifact.digest}  {artifact.folder}")
    except ArtifactError as error:
        raise PipelineError(str(error)) from error
