"""Resilience of the service under pressure, in numbers: `python -m bench.resilience`."""
