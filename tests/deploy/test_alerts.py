"""Alerts and dashboard ask for metrics that the service really has, and the alerts do what their summary says."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.metrics import MetricWrapperBase

from app import telemetry

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
PROMTOOL = shutil.which("promtool")
# Labels that Prometheus adds, and those of its histograms.
FOREIGN_LABELS = {"job", "instance", "le"}


def _rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load((DEPLOY / "alerts.yml").read_text())["groups"] for rule in group["rules"]]


def _dashboard() -> dict[str, Any]:
    return json.loads((DEPLOY / "grafana/dashboards/seq2serve.json").read_text())  # type: ignore[no-any-return]


def _expressions() -> Iterator[str]:
    yield from (rule["expr"] for rule in _rules())
    for panel in _dashboard()["panels"]:
        yield from (target["expr"] for target in panel.get("targets", []))


def _metrics() -> dict[str, set[str]]:
    """Every sample name that Prometheus will see, with the labels of its metric."""
    metrics = {}
    for collector in vars(telemetry).values():
        if isinstance(collector, MetricWrapperBase):
            (metric,) = collector.describe()
            suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}.get(metric.type, ("",))
            metrics.update({metric.name + suffix: set(collector._labelnames) for suffix in suffixes})
    return metrics


@pytest.mark.parametrize("expression", list(_expressions()))
def test_expression_uses_metrics_and_labels_of_the_service(expression: str) -> None:
    metrics = _metrics()
    names = set(re.findall(r"\bseq2serve_\w+", expression))
    assert names <= set(metrics), f"no such metric in app/telemetry.py: {sorted(names - set(metrics))}"
    known = FOREIGN_LABELS.union(*(metrics[name] for name in names))
    matched = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=(?!=))\s*\"", expression))
    grouped = {
        label.strip() for group in re.findall(r"\b(?:by|on) \(([^)]*)\)", expression) for label in group.split(",")
    }
    assert matched | grouped <= known


def test_every_alert_points_to_its_section_of_the_runbook() -> None:
    runbook = (DEPLOY.parent / "docs" / "operations.md").read_text("utf-8")
    headings = {heading.lower() for heading in re.findall(r"^#+ (\S+)$", runbook, flags=re.MULTILINE)}
    for rule in _rules():
        page, anchor = rule["annotations"]["runbook"].split("#")
        assert (page, anchor) == ("docs/operations.md", rule["alert"].lower())
        assert anchor in headings, f"docs/operations.md has no section {rule['alert']}"


def test_every_alert_has_a_unit_test() -> None:
    tests = yaml.safe_load((DEPLOY / "alerts_test.yml").read_text())["tests"]
    tested = {check["alertname"] for case in tests for check in case["alert_rule_test"] if check["exp_alerts"]}
    assert tested == {rule["alert"] for rule in _rules()}


@pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed (Debian: the package prometheus)")
@pytest.mark.parametrize(
    "arguments", [("test", "rules", "alerts_test.yml"), ("check", "config", "--syntax-only", "prometheus.yml")]
)
def test_promtool_agrees(arguments: tuple[str, ...]) -> None:
    run = subprocess.run([str(PROMTOOL), *arguments], cwd=DEPLOY, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr


def test_dashboard_panels_have_titles_units_and_the_provisioned_source() -> None:
    sources = yaml.safe_load((DEPLOY / "grafana/provisioning/datasources/prometheus.yml").read_text())["datasources"]
    known = {source["uid"] for source in sources}
    for panel in _dashboard()["panels"]:
        assert panel["title"]
        if panel["type"] != "row":
            assert panel["fieldConfig"]["defaults"]["unit"]
            assert panel["datasource"]["uid"] in known
