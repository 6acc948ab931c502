"""One scrape of `/metrics`, parsed."""

import httpx
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families


class Scrape:
    """The samples of one scrape."""

    def __init__(self, text: str) -> None:
        self.families: list[Metric] = list(text_string_to_metric_families(text))
        self._samples = {(s.name, frozenset(s.labels.items())): s.value for f in self.families for s in f.samples}

    def value(self, name: str, **labels: str) -> float:
        """Return the value of one series, without the prefix `percept_`; fails where there is none."""
        return self._samples[(f"percept_{name}", frozenset(labels.items()))]

    def has(self, name: str, **labels: str) -> bool:
        """Return whether there is such a series."""
        return (f"percept_{name}", frozenset(labels.items())) in self._samples

    def labels(self, name: str) -> list[dict[str, str]]:
        """Return the labels of every series of one name."""
        return [dict(labels) for found, labels in self._samples if found == f"percept_{name}"]


def scrape(client: httpx.Client) -> Scrape:
    """Scrape the metrics of a service."""
    return Scrape(client.get("/metrics").text)
