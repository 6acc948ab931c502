"""The queries and probes in deploy/ fit a running service: its metrics, their labels, and the paths of the probes."""

from collections import defaultdict
from collections.abc import Callable, Iterator

import promql_parser as promql
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.conftest import Server
from tests.deploy.kustomize import needs_kubectl, render
from tests.deploy.queries import all_queries, groupings, selectors
from tests.photos import draw_marker, encode_photo

QUERIES = all_queries()
SCRAPE_METRICS = {"up"}  # added by Prometheus
TARGET_LABELS = {"job", "instance", "namespace", "pod"}  # added by Prometheus
# Present on a GPU only: tests/percept/server/test_collectors.py proves their labels.
GPU_METRICS = {"percept_gpu_memory_used_bytes": {"gpu"}, "percept_gpu_memory_total_bytes": {"gpu"}}


@pytest.fixture(scope="module")
def metrics(start: Callable[..., Server]) -> dict[str, set[str]]:
    """The labels by metric of two running services; one of them exceeds every deadline."""
    found: dict[str, set[str]] = defaultdict(set, GPU_METRICS)
    photo = encode_photo(draw_marker((64, 64), (32, 32), 8), "JPEG")
    for deadline, status in (("30", 200), ("0.000001", 504)):
        client = start(PERCEPT_DEADLINE_S=deadline).client
        for path in ("/predict", "/cam"):
            assert client.post(path, content=photo).status_code == status
        client.get("/cam/none")
        for family in text_string_to_metric_families(client.get("/metrics").text):
            for sample in family.samples:
                found[sample.name] |= sample.labels.keys()
    return found


@pytest.mark.parametrize("name", QUERIES)
def test_query_uses_existing_metrics_and_labels(name: str, metrics: dict[str, set[str]]) -> None:
    parsed = promql.parse(QUERIES[name])
    found = list(selectors(parsed))
    assert found
    for selector in found:
        assert selector.name in metrics.keys() | SCRAPE_METRICS
        matched = {matcher.name for matcher in selector.matchers.matchers}
        assert matched <= metrics[selector.name] | TARGET_LABELS, selector.name
    for labels, names in groupings(parsed):
        assert labels <= set.union(*(metrics[name] for name in names)) | TARGET_LABELS, names


@needs_kubectl
@pytest.mark.parametrize("name", ["kubernetes/base", "kserve"])
def test_probes_of_a_ready_service_succeed(name: str, start: Callable[..., Server]) -> None:
    client = start().client
    paths = {path for each in render(name) for path in probe_paths(each)}
    assert len(paths) == 2
    assert {path: client.get(path).status_code for path in paths} == dict.fromkeys(paths, 200)


def probe_paths(part: object) -> Iterator[str]:
    """Yield the paths of all HTTP probes in an object."""
    if isinstance(part, list):
        yield from (path for each in part for path in probe_paths(each))
    if isinstance(part, dict):
        if "httpGet" in part:
            yield part["httpGet"]["path"]
        yield from (path for each in part.values() for path in probe_paths(each))


def test_unknown_metric_is_detected(metrics: dict[str, set[str]]) -> None:
    (selector,) = selectors(promql.parse("sum(rate(percept_nonsense_total[5m]))"))
    assert selector.name not in metrics.keys() | SCRAPE_METRICS
