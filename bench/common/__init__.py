"""Parts that the benchmarks share: load, servers, metrics, spreads, reports."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
"""The repository."""
