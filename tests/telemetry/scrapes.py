"""What a scrape says, as prometheus_client's own parser reads it."""

from __future__ import annotations

from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from resilient.telemetry import PrometheusCollector


class Scrapes:
    """A registry with one collector, to be scraped again and again."""

    def __init__(self, **options: Any) -> None:
        self.registry = CollectorRegistry(auto_describe=True)
        self.collector = PrometheusCollector(**options)
        self.registry.register(self.collector)

    def values(self) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
        """Every sample by name and labels."""
        return samples(generate_latest(self.registry).decode())

    def value(self, metric: str, /, **labels: str) -> float | None:
        """One of them, None when there is no such sample."""
        return self.values().get((metric, frozenset(labels.items())))

    def text(self) -> str:
        """The exposition as text."""
        return generate_latest(self.registry).decode()


def samples(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Every sample of an exposition; one of a name and labels twice is an error."""
    found: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in found, f"twice: {key}"
            found[key] = sample.value
    return found


def openmetrics_names(registry: CollectorRegistry) -> set[str]:
    """The metrics of an exposition in OpenMetrics, which is parsed strictly."""
    text: str = openmetrics(registry).decode()  # type: ignore[no-untyped-call]  # the package has no types there
    return {family.name for family in parse_openmetrics(text)}  # type: ignore[no-untyped-call]  # likewise
