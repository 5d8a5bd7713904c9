"""Times of images in a network: what one costs beside others, and how many fit into a turn."""

# Longest batch of background work, if it can be divided: a GPU runs one batch after the other, so a
# prediction may wait for it.
TURN_S = 0.01
# Weight of the newest value in the running means.
_NEWEST = 0.2
# Most that an image with expensive outputs may count beside a cheap one: one slow batch must not
# stop a caller for long.
_MAX_RELATIVE = 20.0


class ImageTimes:
    """Running means of the seconds per image."""

    def __init__(self) -> None:
        # For images without expensive outputs and with them; 0 before the first batch.
        self._seconds = [0.0, 0.0]

    def observe(self, images: int, seconds: float, *, expensive: bool) -> None:
        """Record a batch. May be called from any thread."""
        mean = self._seconds[expensive]
        self._seconds[expensive] += (seconds / images - mean) * (_NEWEST if mean else 1.0)

    def images_per_turn(self, *, expensive: bool) -> int:
        """Return the number of images of background work that take a turn, at least one."""
        seconds = self._seconds[expensive] or self._seconds[False] or TURN_S
        return max(1, int(TURN_S / seconds))

    def relative(self, *, expensive: bool) -> float:
        """Return how many times longer an image takes than a cheap one, from 1 to 20."""
        cheap_s, expensive_s = self._seconds
        if not (expensive and cheap_s and expensive_s):
            return 1.0
        return min(_MAX_RELATIVE, max(1.0, expensive_s / cheap_s))
