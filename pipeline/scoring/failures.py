"""Convert errors of the artefact, the engine, the disk and Parquet for the command line."""

from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa

from limelight.artifact.store import ArtifactError
from limelight.runtime.onnx_session import EngineError
from pipeline.scoring import ScoringError


@contextmanager
def in_words() -> Iterator[None]:
    """Convert errors of the artefact, the engine, the disk and Parquet to `ScoringError`."""
    try:
        yield
    except (ArtifactError, EngineError) as error:
        raise ScoringError(str(error)) from error
    except (OSError, pa.ArrowException) as error:
        raise ScoringError(f"{error}: fix the cause and run the same command again") from error
