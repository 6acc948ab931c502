"""Every PromQL query in deploy/: those of the dashboard, the alerts and the autoscalers.

Files of deploy/ come in, queries leave, with values in place of the variables of Grafana and of the adapter.
"""

import json
from collections.abc import Iterator
from typing import Any

import promql_parser as promql
import yaml

from tests.deploy.kustomize import DEPLOY

MONITORING = DEPLOY / "kubernetes" / "components" / "monitoring"
DASHBOARD: dict[str, Any] = json.loads((MONITORING / "dashboard.json").read_text())
RULES = yaml.safe_load((MONITORING / "rules.yaml").read_text())["spec"]["groups"]
VARIABLE_VALUES = {"$__rate_interval": "1m", "$__range": "1h", "<<.GroupBy>>": "pod", "<<.LabelMatchers>>": ""}
DASHBOARD_VARIABLES = {f"${each['name']}": ".*" for each in DASHBOARD["templating"]["list"] if each["type"] == "query"}


def all_queries() -> dict[str, str]:
    """Return all queries, by a name that says where each is."""
    return {name: _substitute(query) for name, query in (*_dashboard(), *_alerts(), *_autoscalers())}


def selectors(node: Any) -> Iterator[promql.VectorSelector]:
    """Yield every metric of a query, with its label matchers."""
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
            raise AssertionError(f"unknown PromQL node {node!r}")


def groupings(node: Any) -> Iterator[tuple[set[str], set[str]]]:
    """Yield the labels of every `by (...)` of a query, and the metrics below it."""
    if isinstance(node, promql.AggregateExpr):
        if node.modifier:
            assert node.modifier.type == promql.AggModifierType.By
            yield set(node.modifier.labels), {each.name for each in selectors(node.expr) if each.name}
        yield from groupings(node.expr)
    elif isinstance(node, promql.BinaryExpr):
        yield from (each for side in (node.lhs, node.rhs) for each in groupings(side))
    elif isinstance(node, promql.Call):
        yield from (each for argument in node.args for each in groupings(argument))
    elif isinstance(node, promql.ParenExpr):
        yield from groupings(node.expr)


def panels() -> list[dict[str, Any]]:
    """Return the panels of the dashboard, without row headings."""
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


def _substitute(query: str) -> str:
    for variable, value in (VARIABLE_VALUES | DASHBOARD_VARIABLES).items():
        query = query.replace(variable, value)
    assert "$" not in query, query
    assert "<<" not in query, query
    return query
