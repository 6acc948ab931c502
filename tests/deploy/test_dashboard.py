"""The dashboard can be read: every panel says what it shows, in a unit, in a place of its own."""

import promql_parser as promql
import pytest

from tests.deploy.queries import DASHBOARD, panels, queries

PANELS = panels()
KNOWN = {"short", "reqps", "percentunit", "s", "bytes"}
SIGNALS = {"Traffic", "Errors", "Latency", "Saturation", "Time by stage", "Models"}


def test_it_is_of_a_recent_schema_and_of_any_prometheus() -> None:
    assert DASHBOARD["schemaVersion"] >= 39
    names = [each["name"] for each in DASHBOARD["templating"]["list"]]
    assert names == ["datasource", "namespace", "instance", "model", "endpoint"]
    everything = [*PANELS, *DASHBOARD["annotations"]["list"], *DASHBOARD["templating"]["list"][1:]]
    assert {each["datasource"]["uid"] for each in everything} == {"${datasource}"}


def test_it_has_the_golden_signals_and_where_the_time_goes() -> None:
    assert {panel["title"] for panel in DASHBOARD["panels"] if panel["type"] == "row"} >= SIGNALS


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_every_panel_says_what_it_shows(panel) -> None:
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"] in KNOWN
    assert panel["targets"]
    for target in panel["targets"]:
        # Whoever looks at one pod or one model sees nothing of the others.
        assert 'namespace=~"$namespace"' in target["expr"]
        assert 'instance=~"$instance"' in target["expr"]
    if panel["type"] == "stat":
        assert panel["fieldConfig"]["defaults"]["thresholds"]["steps"]


def test_no_panel_covers_another() -> None:
    cells = [
        (x, y)
        for panel in DASHBOARD["panels"]
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) == 23
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


@pytest.mark.parametrize(("where", "query"), queries().items(), ids=queries())
def test_every_query_is_promql(where: str, query: str) -> None:
    promql.parse(query)
