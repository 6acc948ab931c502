"""Counters and histograms for Prometheus: the number of requests, their duration, and the time spent by stage.

Names and units follow the conventions of Prometheus: seconds, bytes, `_total`. Values that are read at the moment of a
scrape, such as the depth of a queue, are not kept here: see `percept.server.collectors`.
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
)
from prometheus_client.exposition import choose_encoder

from percept import process
from percept.telemetry.context import STAGES, RequestContext

DURATION_BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64)  # images

process.disable_created_metrics()


class Metrics:
    """The metrics of one application, in a registry of its own.

    Other modules record through the public attributes: `in_flight` requests, `cache_lookups` by `result`, and by model
    and version `queue_waits` in seconds and `batch_sizes` in images.
    """

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=registry)
        counter = partial(Counter, registry=registry)
        histogram = partial(Histogram, registry=registry, buckets=DURATION_BUCKETS_S)
        requests = counter("percept_requests_total", "Answered requests.", ["endpoint", "model", "version", "code"])
        durations = histogram(
            "percept_request_duration_seconds",
            "Time from the first byte of a request to the end of its response.",
            ["endpoint", "model", "code"],
        )
        stages = histogram(
            "percept_stage_duration_seconds",
            "Time of a request in one stage. " + "; ".join(f"{name}: {text}" for name, text in STAGES.items()) + ".",
            ["endpoint", "model", "stage"],
        )
        self._refusals = counter(
            "percept_refusals_total",
            "Refused work: queue full, deadline exceeded, no model ready, or the client disconnected.",
            ["model", "reason"],
        )
        self.in_flight = Gauge(
            "percept_requests_in_flight",
            "Requests that are being handled now, except health checks and metrics.",
            registry=registry,
        )
        self.cache_lookups = counter(
            "percept_store_lookups_total", "Lookups of cached images by id: hit or miss.", ["result"]
        )
        for result in ("hit", "miss"):
            self.cache_lookups.labels(result)
        self.queue_waits = histogram(
            "percept_queue_wait_seconds",
            "Time that an image waits in the queue until a worker thread takes it.",
            ["model", "version"],
        )
        self.batch_sizes = histogram(
            "percept_batch_size", "Images in one run of a network.", ["model", "version"], buckets=BATCH_BUCKETS
        )
        # Looking up a child by its labels costs more than counting: prometheus_client takes a lock for it.
        self._request = cache(lambda *labels: requests.labels(*labels))
        self._duration = cache(lambda *labels: durations.labels(*labels))
        self._stage = cache(lambda *labels: stages.labels(*labels))

    def record_request(self, endpoint: str, status: int, seconds: float, request: RequestContext) -> None:
        """Count an answered request with its status, duration and stages."""
        model, code = request.model, str(status)
        self._request(endpoint, model, request.version, code).inc()
        # The exemplar links a slow request in the histogram to its trace, if a span is recorded.
        exemplar = {"trace_id": request.trace_id} if request.span_id else None
        self._duration(endpoint, model, code).observe(seconds, exemplar)
        for stage, spent in list(request.stage_seconds.items()):  # a thread of an abandoned job may still add to it
            self._stage(endpoint, model, stage).observe(spent)

    def record_refusals(self, request: RequestContext) -> None:
        """Count what the service refused of a request."""
        for reason in request.refusals:
            self._refusals.labels(request.model, reason).inc()

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """Return all metrics and their media type: OpenMetrics where `accept` has it, else Prometheus's text format."""
        encode, media_type = choose_encoder(accept)
        return encode(self.registry), media_type
