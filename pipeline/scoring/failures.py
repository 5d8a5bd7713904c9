"""The errors of what scoring is made of, in the command line's words."""

from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa

from limelight.artifact.store import ArtifactError
from limelight.runtime.onnx_session import EngineError
from pipeline.scoring import ScoringError


@contextmanager
def in_words() -> Iterator[None]:
    """Make the errors of the artefact, the engine, the disk and Parquet into a `ScoringError`."""
    try:
        yield
    except (ArtifactError, EngineError) as error:
        raise ScoringError(str(error)) from error
    except (OSError, pa.ArrowException) as error:
        raise ScoringError(f"{error}: see to it and run the same command again") from error
