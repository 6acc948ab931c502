"""Every query that deploy/ asks of Prometheus: the dashboard's, the alerts', the autoscalers'.

Files of deploy/ go in, PromQL comes out, by where it stands; Grafana's variables and the adapter's are filled in.
"""

import json
from collections.abc import Iterator
from typing import Any

import promql_parser as promql
import yaml

from tests.deploy.cluster import DEPLOY

MONITORING = DEPLOY / "kubernetes" / "components" / "monitoring"
DASHBOARD: dict[str, Any] = json.loads((MONITORING / "dashboard.json").read_text())
RULES = yaml.safe_load((MONITORING / "rules.yaml").read_text())["spec"]["groups"]
FILLED = {"$__rate_interval": "1m", "$__range": "1h", "<<.GroupBy>>": "pod", "<<.LabelMatchers>>": ""}
CHOSEN = {f"${each['name']}": ".*" for each in DASHBOARD["templating"]["list"] if each["type"] == "query"}


def queries() -> dict[str, str]:
    """PromQL by where it stands."""
    return {where: _filled(query) for where, query in (*_dashboard(), *_alerts(), *_autoscalers())}


def selectors(node: Any) -> Iterator[promql.VectorSelector]:
    """Every metric of a query, with its matchers."""
    match node:
        case promql.VectorSelector():
            yield node
        case promql.MatrixSelector():
            yield node.vector_selector
        case promql.BinaryExpr():
            yield from (each for side in (node.lhs, node.rhs) for each in selectors(side))
        case promql.Call():
            yield from (each for argument in node.args for each in selectors(argument))
        case promql.AggregateExpr() | promql.ParenExpr() | promql.UnaryExpr() | promql.SubqueryExpr():
            yield from selectors(node.expr)
        case promql.NumberLiteral() | promql.StringLiteral():
            return
        case _:
            raise AssertionError(f"what is {node!r}?")


def groupings(node: Any) -> Iterator[tuple[set[str], set[str]]]:
    """Every `by (…)` of a query: its labels, and the metrics below."""
    if isinstance(node, promql.AggregateExpr):
        if node.modifier:
            assert node.modifier.type == promql.AggModifierType.By
            yield set(node.modifier.labels), {each.name for each in selectors(node.expr)}
        yield from groupings(node.expr)
    elif isinstance(node, promql.BinaryExpr):
        yield from (each for side in (node.lhs, node.rhs) for each in groupings(side))
    elif isinstance(node, promql.Call):
        yield from (each for argument in node.args for each in groupings(argument))
    elif isinstance(node, promql.ParenExpr):
        yield from groupings(node.expr)


def panels() -> list[dict[str, Any]]:
    """The dashboard's panels, without the headings of rows."""
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def _dashboard() -> Iterator[tuple[str, str]]:
    for panel in panels():
        for target in panel["targets"]:
            yield f"{panel['title']} {target['refId']}", target["expr"]
    for each in DASHBOARD["annotations"]["list"]:
        yield f"annotation {each['name']}", each["expr"]
    for each in DASHBOARD["templating"]["list"]:
        if each["type"] == "query":
            inner = each["query"]["query"].removeprefix("label_values(").removesuffix(")")
            metric, label = inner.rsplit(", ", 1)
            yield f"variable {each['name']}", f"group by ({label}) ({metric})"


def _alerts() -> Iterator[tuple[str, str]]:
    for group in RULES:
        for rule in group["rules"]:
            yield rule["alert"], rule["expr"]


def _autoscalers() -> Iterator[tuple[str, str]]:
    (rule,) = yaml.safe_load((MONITORING / "adapter.yaml").read_text())["rules"]["custom"]
    yield "adapter series", rule["seriesQuery"]
    yield "adapter", rule["metricsQuery"]
    scaled = yaml.safe_load((DEPLOY / "kubernetes" / "components" / "keda" / "scaledobject.yaml").read_text())
    yield "keda", scaled["spec"]["triggers"][0]["metadata"]["query"]


def _filled(query: str) -> str:
    for variable, value in (FILLED | CHOSEN).items():
        query = query.replace(variable, value)
    assert "$" not in query, query
    assert "<<" not in query, query
    return query
