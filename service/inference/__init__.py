"""Served models: registry, admission, batching and classifiers."""
