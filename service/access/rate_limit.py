"""Rate limits of the callers: a token bucket for each, in each worker."""

import time

from service.caller import Caller


class TokenBucket:
    """Bucket that holds at most `burst` tokens and gets `rate` more each second. It begins full."""

    __slots__ = ("_filled", "_tokens", "burst", "rate")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self.rate, self.burst = rate, burst
        self._tokens, self._filled = burst, now

    def take(self, now: float) -> float:
        """Take a token and return 0; or return the seconds until there is one."""
        self._tokens = min(self.burst, self._tokens + (now - self._filled) * self.rate)
        self._filled = now
        if self._tokens >= 1:
            self._tokens -= 1
            return 0.0
        return (1 - self._tokens) / self.rate


class RateLimits:
    """Rate limits of all callers in one worker, which allows its part of each caller's rate.

    Args:
        workers: number of workers. The connections are spread evenly over them.
    """

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._buckets: dict[str, TokenBucket] = {}

    def wait_s(self, caller: Caller) -> float:
        """Count a request of a caller and return 0; or return the seconds until it may come."""
        if caller.rate is None:
            return 0.0
        rate = caller.rate / self._workers
        # A bucket with room for less than one token would never let a request pass.
        burst = max(1.0, (caller.burst or caller.rate) / self._workers)
        now = time.perf_counter()
        bucket = self._buckets.get(caller.name)
        if bucket is None:
            bucket = self._buckets[caller.name] = TokenBucket(rate, burst, now)
        else:  # the file of keys may have changed
            bucket.rate, bucket.burst = rate, burst
        return bucket.take(now)
