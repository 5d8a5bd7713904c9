"""Scraping of a server's metrics."""

import time

import httpx
from prometheus_client.parser import text_string_to_metric_families

from service.telemetry.metrics import FLUSH_S
from tests.serving_kit import Server

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def let_workers_count() -> None:
    """Wait until each worker has written its metrics."""
    time.sleep(FLUSH_S + 1)


def samples(server: Server) -> Samples:
    """Return all samples at /metrics by name and labels, over a new connection."""
    text = httpx.get(f"{server.url}/metrics", timeout=20).raise_for_status().text
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def find(found: Samples, name: str, **labels: str) -> float:
    """Return the sum of the samples with these labels."""
    asked = frozenset(labels.items())
    return sum(value for (n, have), value in found.items() if n == name and asked <= have)
