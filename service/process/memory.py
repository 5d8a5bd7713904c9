"""Sizing rule: the memory that the service needs, from its settings."""

from service.inference.decoding import SMALL_BYTES, SMALL_THREADS
from service.inference.decoding_budget import BUDGET_SHARE
from service.settings import Settings

# Measured after 100,000 mixed requests, with the shipped models: docs/operations.md.
WORKER_BYTES = 220_000_000
PARENT_BYTES = 110_000_000


def needed_bytes(settings: Settings, *, workers: int) -> int:
    """Return the memory of the parent and of `workers` workers that decode all they may at once."""
    uploads = settings.max_queued_bytes
    decoding = BUDGET_SHARE * settings.max_decoded_bytes + SMALL_THREADS * SMALL_BYTES
    return PARENT_BYTES + workers * (WORKER_BYTES + uploads + int(decoding))
