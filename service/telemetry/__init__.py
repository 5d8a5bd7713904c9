"""Metrics, traces, logs, and the request recorder."""
