"""Batches of a text: parallel streams in order, or windows in any order."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from pipeline.errors import DataError

JITTERED, HALVED = 0.95, 0.5
"""Share of the batches of about `bptt` characters; the others have about half as many."""
DEVIATION, SHORTEST = 5.0, 5


class TextBatch(NamedTuple):
    """Characters (T, N), and the characters after them."""

    characters: Tensor
    targets: Tensor
    """(T, N), or (1, N) for a network that predicts one character from a window."""
    done: float
    """Share of the text that is done with this batch."""


def as_streams(codes: Tensor, streams: int) -> Tensor:
    """Cut a text into parallel streams of equal length: (L,) -> (L // streams, streams).

    Each stream goes on where it stopped in the batch before. The last characters, fewer than
    `streams`, are left out.

    Raises:
        DataError: the text has not two characters for each stream.

    """
    length = len(codes) // streams
    if length < 2:
        raise DataError(
            f"{len(codes):,} characters are too few for {streams} streams; use a longer text or "
            "fewer streams"
        )
    return codes[: length * streams].view(streams, length).t().contiguous()


def stream_batches(
    streams_tn: Tensor, bptt: int, *, jitter: torch.Generator | None = None
) -> Iterator[TextBatch]:
    """Yield consecutive parts of about `bptt` characters; the last one may be shorter.

    Every character but the first is a target once. With `jitter`, a part has a random length as in
    the lesson, so that the cuts are elsewhere in each epoch: about `bptt`, or half of it in every
    twentieth batch, with a standard deviation of 5, and at least 5.
    """
    start, last = 0, len(streams_tn) - 1
    while start < last:
        length = bptt if jitter is None else _jittered(bptt, jitter)
        end = min(start + length, last)
        yield TextBatch(streams_tn[start:end], streams_tn[start + 1 : end + 1], end / last)
        start = end


def window_batches(
    codes: Tensor, window: int, size: int, *, order: torch.Generator | None = None
) -> Iterator[TextBatch]:
    """Yield all windows of a text with the character after each, `size` a batch: (window, N).

    With `order` they come in random order; the last batch may have fewer.

    Raises:
        DataError: the text is not longer than a window.

    """
    check_windows(codes, window)
    count = len(codes) - window
    views = codes.unfold(0, window + 1, 1)
    chosen = torch.arange(count) if order is None else torch.randperm(count, generator=order)
    done = 0
    for indices in torch.split(chosen, size):
        done += len(indices)
        batch = views[indices.to(codes.device)].t()
        yield TextBatch(batch[:-1].contiguous(), batch[-1:].contiguous(), done / count)


def check_windows(codes: Tensor, window: int) -> None:
    """Check that a text has a window, and a character after it.

    Raises:
        DataError: it has not.

    """
    if len(codes) <= window:
        raise DataError(
            f"{len(codes)} characters are too few for windows of {window}: use a longer text"
        )


def _jittered(bptt: int, rng: torch.Generator) -> int:
    middle = bptt if float(torch.rand((), generator=rng)) < JITTERED else HALVED * bptt
    return max(SHORTEST, int(middle + DEVIATION * float(torch.randn((), generator=rng))))
