"""Labels for a whole folder of images, or for Parquet files of them, by the service's own code."""

from pipeline.errors import PipelineError


class ScoringError(PipelineError):
    """Scoring cannot begin, go on or be trusted."""
