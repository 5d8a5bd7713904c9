"""Bulk scoring: label a folder of images, or Parquet files of images, as the service would."""

from pipeline.errors import PipelineError


class ScoringError(PipelineError):
    """Scoring cannot start or continue, or its result is not complete."""
