"""Models that are served, and the queue that batches images for them."""
