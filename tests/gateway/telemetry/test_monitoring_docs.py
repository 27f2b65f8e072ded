"""The dashboard and the alerting rules ask for series that exist, and every alert has a runbook."""

import re
from pathlib import Path

import orjson
import pytest
import yaml

from gateway.telemetry import names
from gateway.telemetry.names import prometheus

HOUSE = Path(__file__).parents[3]
MONITORING = HOUSE / "docs" / "monitoring"
HISTOGRAMS = {
    prometheus(names.CALL_DURATION, "seconds"),
    prometheus(names.OPERATION_DURATION, "seconds"),
    prometheus(names.TIME_TO_FIRST_CHUNK, "seconds"),
    prometheus(names.TOKEN_USAGE),
    "tollhouse_provider_first_byte_seconds",
}
PLAIN = {
    prometheus(names.COST, "pico_total"),
    prometheus(names.PRICE, "pico_total"),
    "tollhouse_requests_total",
    "tollhouse_requests_in_flight",
    "tollhouse_ledger_backlog",
    "tollhouse_ledger_suspense",
    "tollhouse_content_lost_total",
    "tollhouse_provider_attempts_total",
    "tollhouse_endpoint_circuit",
    "tollhouse_credential_refused",
}
KNOWN = PLAIN | {f"{name}_{part}" for name in HISTOGRAMS for part in ("bucket", "sum", "count")}


def alerts():
    (group,) = yaml.safe_load((MONITORING / "alerts.yml").read_text())["groups"]
    return group["rules"]


def expressions():
    panels = orjson.loads((MONITORING / "grafana.json").read_bytes())["panels"]
    yield from (target["expr"] for panel in panels for target in panel["targets"])
    yield from (alert["expr"] for alert in alerts())


@pytest.mark.parametrize("expression", sorted(set(expressions())))
def test_what_is_asked_for_exists(expression):
    asked = set(re.findall(r"\b(?:tollhouse|gen_ai)_[a-z_]+(?=[{\[ )]|$)", expression))
    labels = set(
        re.findall(r"\b(gen_ai_(?:token_type|request_model|provider_name|operation_name))\b", expression)
    )
    assert asked - labels
    assert asked - labels <= KNOWN


@pytest.mark.parametrize("alert", alerts(), ids=lambda alert: alert["alert"])
def test_every_alert_has_a_runbook(alert):
    assert (HOUSE / alert["annotations"]["runbook"]).is_file()


@pytest.mark.parametrize("name", sorted(PLAIN | HISTOGRAMS))
def test_the_docs_name_every_series(name):
    assert f"`{name}" in (HOUSE / "docs" / "observability.md").read_text()
