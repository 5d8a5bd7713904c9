"""What can go wrong in the pipeline; each message says what to do next."""


class PipelineError(Exception):
    """An error that the command line prints as one line; its exit status is 1."""


class DataError(PipelineError):
    """Data is missing, short, corrupt or not what it should be."""


class RunError(PipelineError):
    """A run folder is missing, incomplete or does not fit what is asked of it."""


class GateError(PipelineError):
    """An export gate failed; the message has its figure."""
