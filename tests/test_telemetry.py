"""Metrics: names and units by Prometheus' rules, labels from closed sets."""

import re

import pytest
from prometheus_client.metrics import MetricWrapperBase

from app import telemetry

METRICS = {name: value for name, value in vars(telemetry).items() if isinstance(value, MetricWrapperBase)}
LABELS = {
    *("route", "method", "code", "task", "model", "version", "state", "stage", "phase", "kind", "reason"),
    *("provider", "dtype", "sha256_12", "result"),
}


def _names(metric: MetricWrapperBase) -> str:
    [family] = metric.describe()
    return f"{family.name}_total" if family.type == "counter" else family.name


@pytest.mark.parametrize("constant", METRICS)
def test_a_metric_is_called_as_its_constant(constant: str) -> None:
    assert _names(METRICS[constant]) == f"seq2serve_{constant.lower()}"


@pytest.mark.parametrize("constant", METRICS)
def test_names_end_with_their_unit(constant: str) -> None:
    [family] = METRICS[constant].describe()
    assert (family.type == "counter") == constant.endswith("_TOTAL")
    if "DURATION" in constant or "LOAD" in constant or "TIME" in constant:
        assert constant.endswith("_SECONDS")
    assert not re.search(r"_(MS|US|MILLISECONDS)$", constant)


@pytest.mark.parametrize("constant", METRICS)
def test_labels_come_from_closed_sets(constant: str) -> None:
    assert set(METRICS[constant]._labelnames) <= LABELS


@pytest.mark.parametrize("constant", METRICS)
def test_metrics_are_described(constant: str) -> None:
    assert METRICS[constant]._documentation.endswith(".")
