"""What is measured: in this process, and what others tell Prometheus."""

from collections.abc import Mapping

import httpx
from prometheus_client import REGISTRY
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families


def value(name: str, **labels: str) -> float:
    """Of this process; 0 for a series that is not there."""
    return REGISTRY.get_sample_value(name, labels) or 0.0


def scrape(url: str) -> list[Metric]:
    answer = httpx.get(url, trust_env=False, timeout=15)
    return list(text_string_to_metric_families(answer.raise_for_status().text))


def total(metrics: list[Metric], name: str, **labels: str) -> float:
    """The sum of the series of that name that have these labels."""
    return sum(
        sample.value
        for metric in metrics
        for sample in metric.samples
        if sample.name == name and _has(sample.labels, labels)
    )


def _has(labels: Mapping[str, str], wanted: Mapping[str, str]) -> bool:
    return all(labels.get(name) == value for name, value in wanted.items())
