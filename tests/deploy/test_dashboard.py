"""The dashboard is readable: every panel has a description, a unit and its own place."""

from typing import Any

import promql_parser as promql
import pytest

from tests.deploy.queries import DASHBOARD, all_queries, panels

PANELS = panels()
UNITS = {"short", "reqps", "percentunit", "s", "bytes"}
ROWS = {"Traffic", "Errors", "Latency", "Saturation", "Time by stage", "Models"}


def test_dashboard_uses_the_selected_data_source() -> None:
    assert DASHBOARD["schemaVersion"] >= 39
    names = [each["name"] for each in DASHBOARD["templating"]["list"]]
    assert names == ["datasource", "namespace", "instance", "model", "endpoint"]
    queried = [*PANELS, *DASHBOARD["annotations"]["list"], *DASHBOARD["templating"]["list"][1:]]
    assert {each["datasource"]["uid"] for each in queried} == {"${datasource}"}


def test_dashboard_has_the_golden_signals() -> None:
    assert {panel["title"] for panel in DASHBOARD["panels"] if panel["type"] == "row"} >= ROWS


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_panel_has_description_unit_and_filters(panel: dict[str, Any]) -> None:
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"] in UNITS
    assert panel["targets"]
    for target in panel["targets"]:
        # A panel for one pod must not include the others.
        assert 'namespace=~"$namespace"' in target["expr"]
        assert 'instance=~"$instance"' in target["expr"]
    if panel["type"] == "stat":
        assert panel["fieldConfig"]["defaults"]["thresholds"]["steps"]


def test_panels_do_not_overlap() -> None:
    cells = [
        (x, y)
        for panel in DASHBOARD["panels"]
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) == 23
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


@pytest.mark.parametrize("query", all_queries().values(), ids=all_queries())
def test_query_is_valid_promql(query: str) -> None:
    promql.parse(query)
