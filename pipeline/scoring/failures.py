"""The errors of what scoring is made of, in the command line's words."""

from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa

from pipeline.scoring import ScoringError
from service.artifact import ArtifactError
from service.sessions import EngineError


@contextmanager
def in_words() -> Iterator[None]:
    """Make the errors of the artefact, the engine, the disk and Parquet into a `ScoringError`."""
    try:
        yield
    except (ArtifactError, EngineError) as error:
        raise ScoringError(str(error)) from error
    except (OSError, pa.ArrowException) as error:
        raise ScoringError(f"{error}: see to it and run the same command again") from error
