"""The metrics label every request with the path template that OpenAPI documents."""

from collections import Counter

import httpx

from tests.percept.scrape import scrape


def test_metrics_label_each_endpoint_with_its_path(client: httpx.Client) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    for path, operations in paths.items():
        for method in operations:
            before = count_requests(client)
            client.request(method, path.format(name="none", version=1, id="none"))
            assert set(count_requests(client) - before) - {"/metrics"} == {path} - {"/metrics"}


def count_requests(client: httpx.Client) -> Counter[str]:
    """The number of requests by the label `endpoint`."""
    found = scrape(client)
    counts: Counter[str] = Counter()
    for labels in found.labels("requests_total"):
        counts[labels["endpoint"]] += round(found.value("requests_total", **labels))
    return counts
