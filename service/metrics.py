"""What the service counts, for Prometheus: how long requests take, and where their time goes.

Durations are in seconds, in histograms whose names and units follow Prometheus's conventions.
"""

from functools import cache

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Histogram, generate_latest

from service.stages import STAGES, Spent

MEDIA_TYPE = CONTENT_TYPE_LATEST
BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """The numbers of one application."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        requests = Histogram(
            "percept_request_seconds",
            "Time from a request's first byte to the end of its answer.",
            ["endpoint", "status"],
            buckets=BUCKETS,
            registry=self.registry,
        )
        stages = Histogram(
            "percept_stage_seconds",
            "Time of a request in one stage: " + "; ".join(f"{name}: {what}" for name, what in STAGES.items()) + ".",
            ["endpoint", "stage"],
            buckets=BUCKETS,
            registry=self.registry,
        )
        self._request = cache(lambda endpoint, status: requests.labels(endpoint, status))
        self._stage = cache(lambda endpoint, stage: stages.labels(endpoint, stage))

    def count(self, endpoint: str, status: int, seconds: float, spent: Spent) -> None:
        """A request that was answered: by which endpoint, with what status, and what it took."""
        self._request(endpoint, status).observe(seconds)
        for stage, part in spent.items():
            self._stage(endpoint, stage).observe(part)

    def text(self) -> bytes:
        """All numbers in Prometheus's text format."""
        return generate_latest(self.registry)
