"""What the service counts, for Prometheus: how many requests, how long they take, and where their time goes.

Names and units follow Prometheus's conventions: seconds, bytes, totals. What is true at the moment of a scrape, such as
the depth of a queue, is not counted here but read then: see `gauges`.
"""

from functools import cache, partial

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.exposition import choose_encoder

from percept.telemetry.context import STAGES, Account

BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
SIZES = (1, 2, 4, 8, 16, 32, 64)

# A series more for each of ours, which Prometheus would store as a gauge.
disable_created_metrics()  # type: ignore[no-untyped-call]


class Metrics:
    """The numbers of one application.

    `in_flight` are requests, `lookups` those of kept images; by model and version `waits` are the seconds that an image
    waited for a thread, `batches` the images in one run of a network.
    """

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=registry)
        counter = partial(Counter, registry=registry)
        histogram = partial(Histogram, registry=registry, buckets=BUCKETS)
        requests = counter(
            "percept_requests_total", "Requests that were answered.", ["endpoint", "model", "version", "code"]
        )
        durations = histogram(
            "percept_request_duration_seconds",
            "Time from a request's first byte to the end of its answer.",
            ["endpoint", "model", "code"],
        )
        stages = histogram(
            "percept_stage_duration_seconds",
            "Time of a request in one stage: " + "; ".join(f"{name}: {what}" for name, what in STAGES.items()) + ".",
            ["endpoint", "model", "stage"],
        )
        self._refusals = counter(
            "percept_refusals_total",
            "What was asked for and not done: for lack of room, time or a model, or because the client went away.",
            ["model", "reason"],
        )
        self.in_flight = Gauge(
            "percept_requests_in_flight",
            "Requests that are being answered now, without those for health and metrics.",
            registry=registry,
        )
        self.lookups = counter(
            "percept_store_lookups_total",
            "Questions about an image that was sent earlier, by whether it is still kept.",
            ["result"],
        )
        for result in ("hit", "miss"):
            self.lookups.labels(result)
        self.waits = histogram(
            "percept_queue_wait_seconds",
            "Time from when an image is queued until a thread takes it.",
            ["model", "version"],
        )
        self.batches = histogram(
            "percept_batch_size", "Images in one run of a network.", ["model", "version"], buckets=SIZES
        )
        # A lookup of prometheus_client's own costs more than counting.
        self._request = cache(lambda *labels: requests.labels(*labels))
        self._duration = cache(lambda *labels: durations.labels(*labels))
        self._stage = cache(lambda *labels: stages.labels(*labels))

    def count(self, endpoint: str, status: int, seconds: float, account: Account) -> None:
        """A request that was answered: by which endpoint, with what status, and what it took."""
        model, code = account.model, str(status)
        self._request(endpoint, model, account.version, code).inc()
        # A span is recorded: a slow request of a histogram can be looked at.
        exemplar = {"trace_id": account.trace_id} if account.span_id else None
        self._duration(endpoint, model, code).observe(seconds, exemplar)
        for stage, part in list(account.spent.items()):  # a thread whose work nobody wants any longer may still add
            self._stage(endpoint, model, stage).observe(part)

    def refused(self, account: Account) -> None:
        """What a request asked for and did not get."""
        for reason in account.refusals:
            self._refusals.labels(account.model, reason).inc()

    def text(self, accept: str = "") -> tuple[bytes, str]:
        """All numbers in Prometheus's text format, or in OpenMetrics where that is accepted; and the media type."""
        encode, kind = choose_encoder(accept)
        return encode(self.registry), kind
