"""What deploy/ asks of the service, a running one answers.

Each metric of a query exists and has the labels that the query names; each probe finds its path.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator

import promql_parser as promql
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.conftest import Server
from tests.deploy.cluster import needs_kubectl, rendered
from tests.deploy.queries import groupings, queries, selectors
from tests.photos import encoded, marked

QUERIES = queries()
SCRAPE = {"up"}  # Prometheus's own, of every scrape
TARGET = {"job", "instance", "namespace", "pod"}  # labels that Prometheus knows of whom it scrapes
# There on a GPU only: what the service would say of it is what tests/service proves.
GPU = {"percept_gpu_memory_used_bytes": {"gpu"}, "percept_gpu_memory_total_bytes": {"gpu"}}


@pytest.fixture(scope="module")
def metrics(start: Callable[..., Server]) -> dict[str, set[str]]:
    """What running services count, one of which is too late with everything: labels by name of series."""
    found: dict[str, set[str]] = defaultdict(set, GPU)
    photo = encoded(marked((64, 64), (32, 32), 8), "JPEG")
    for deadline, status in (("30", 200), ("0.000001", 504)):
        client = start(PERCEPT_DEADLINE_S=deadline).client
        for path in ("/predict", "/cam"):
            assert client.post(path, content=photo).status_code == status
        client.get("/cam/none")
        for family in text_string_to_metric_families(client.get("/metrics").text):
            for sample in family.samples:
                found[sample.name] |= sample.labels.keys()
    return found


@pytest.mark.parametrize("where", QUERIES)
def test_every_metric_exists_with_the_labels_that_are_asked_for(where: str, metrics: dict[str, set[str]]) -> None:
    parsed = promql.parse(QUERIES[where])
    asked = list(selectors(parsed))
    assert asked
    for selector in asked:
        assert selector.name in metrics.keys() | SCRAPE
        matched = {matcher.name for matcher in selector.matchers.matchers}
        assert matched <= metrics[selector.name] | TARGET, selector.name
    for labels, names in groupings(parsed):
        assert labels <= set.union(*(metrics[name] for name in names)) | TARGET, names


@needs_kubectl
@pytest.mark.parametrize("name", ["kubernetes/base", "kserve"])
def test_every_probe_is_answered_by_a_service_that_is_ready(name: str, start: Callable[..., Server]) -> None:
    client = start().client
    paths = {path for each in rendered(name) for path in probed(each)}
    assert len(paths) == 2
    assert {path: client.get(path).status_code for path in paths} == dict.fromkeys(paths, 200)


def probed(part: object) -> Iterator[str]:
    """The paths that a kubelet asks for, wherever they stand."""
    if isinstance(part, list):
        yield from (path for each in part for path in probed(each))
    if isinstance(part, dict):
        if "httpGet" in part:
            yield part["httpGet"]["path"]
        yield from (path for each in part.values() for path in probed(each))


def test_a_metric_that_does_not_exist_is_found(metrics: dict[str, set[str]]) -> None:
    (selector,) = selectors(promql.parse("sum(rate(percept_nonsense_total[5m]))"))
    assert selector.name not in metrics.keys() | SCRAPE
