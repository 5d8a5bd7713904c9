"""Errors of the pipeline; each message says what to do next."""


class PipelineError(Exception):
    """An error that the command line prints as one line; its exit status is 1."""


class DataError(PipelineError):
    """Data is missing, truncated, corrupt or of an unexpected form."""


class RunError(PipelineError):
    """A run folder is missing or incomplete, or does not fit the request."""


class GateError(PipelineError):
    """An export gate failed; the message has the measured value."""
