"""Served models of a worker: registry and follower, admission, batching and classifiers."""
