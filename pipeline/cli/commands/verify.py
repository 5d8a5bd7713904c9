"""`limelight verify`."""

from pathlib import Path
from typing import Annotated

import typer

from limelight.artifact.store import ArtifactError, load_artifact, newest_version
from pipeline.console import say
from pipeline.errors import PipelineError


def verify(
    artifacts: Annotated[
        list[Path],
        typer.Argument(help="folders of versions, or of a model: then its newest version"),
    ],
    key: Annotated[
        Path | None,
        typer.Option(
            envvar="LIMELIGHT_TRUSTED_KEYS",
            help="trusted public key, or a folder of keys and certificates (PEM)",
        ),
    ] = None,
    chain: Annotated[
        Path | None, typer.Option(help="certificates of trusted authorities (PEM)")
    ] = None,
) -> None:
    """Check who signed artefacts and that no file has changed; prints their digests.

    Example: limelight verify zoo/digits --key zoo/limelight.pub
    """
    from limelight.artifact.signatures import verify_signature

    trusted = [path for path in (key, chain) if path is not None]
    if not trusted:
        raise PipelineError("give --key or --chain: a signature shows only that a key was used")
    try:
        for path in artifacts:
            artifact = load_artifact(newest_version(path))
            signature = verify_signature(artifact, *trusted)
            say(f"{artifact.folder} is signed by the {signature.method} {signature.key}")
            print(f"{artifact.digest}  {artifact.folder}")
    except ArtifactError as error:
        raise PipelineError(str(error)) from error
