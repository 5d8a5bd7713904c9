"""Metrics, traces, logs, and what records them for each request."""
