"""Traces for OpenTelemetry: one span for each request, and below it one span for each stage of the request.

`create_tracing` reads the standard variables `OTEL_*`. If they request no traces, OpenTelemetry's SDK is not imported;
if it is not installed, a warning names the package. The SDK itself reads the variables for sampling, headers, batches
and resource names. Query strings are never recorded, because they may hold personal data.
"""

import logging
from collections.abc import Sequence
from time import perf_counter, time_ns
from typing import TYPE_CHECKING, Any, Optional

from starlette.types import Scope

from percept import __version__
from percept.settings import OTLP_PROTOCOL, TracingSettings
from percept.telemetry.context import RequestContext

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Span

log = logging.getLogger(__name__)

# The methods of OpenTelemetry's semantic conventions. Any other is reported as `_OTHER`: clients can invent methods,
# and attributes must keep few values.
HTTP_METHODS = frozenset({"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY", "TRACE"})
NS_PER_S = 10**9


def create_tracing(settings: TracingSettings) -> Optional["Tracing"]:
    """Create the tracing that the settings request; None if they request none or the SDK is not installed."""
    names = settings.exporters
    if "otlp" in names and settings.protocol != OTLP_PROTOCOL:
        log.warning("traces are sent as %s: %s is not supported", OTLP_PROTOCOL, settings.protocol)
    try:
        exporters = [_create_exporter(name) for name in names]
        return Tracing(exporters) if exporters else None
    except ModuleNotFoundError as error:
        log.warning("no traces: %s is not installed; run pip install 'percept-serve[otel]'", error.name)
        return None


def _create_exporter(name: str) -> "SpanExporter":
    if name == "console":
        from opentelemetry.sdk.trace.export import ConsoleSpanExporter

        return ConsoleSpanExporter()
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    return OTLPSpanExporter()


class Tracing:
    """Creates the spans of one application and sends them to the exporters."""

    def __init__(self, exporters: Sequence["SpanExporter"]) -> None:
        from opentelemetry.sdk.resources import OTELResourceDetector, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        default = Resource({"service.name": "percept", "service.version": __version__})
        configured = default.merge(OTELResourceDetector().detect())  # the operator's service name overrides the default
        # Not the global provider of the process: an application that mounts this one has its own.
        self._provider = TracerProvider(resource=Resource.create(dict(configured.attributes)))
        for exporter in exporters:
            self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("percept", __version__)

    def start_request(self, scope: Scope, request: RequestContext, start: float) -> "Span":
        """Start the span of a request that arrived at `start` by `perf_counter`.

        Sets the trace and span ids of `request`, and its `stage_spans` if the span is sampled.
        """
        from opentelemetry.trace import SpanKind, format_span_id, format_trace_id

        attributes = _request_attributes(scope, request)
        parent = _parent_context(scope) if request.trace_id else None
        start_ns = _perf_counter_epoch_ns() + _ns(start)
        span = self._tracer.start_span("HTTP", parent, SpanKind.SERVER, attributes, start_time=start_ns)
        ids = span.get_span_context()
        request.trace_id, request.span_id = format_trace_id(ids.trace_id), format_span_id(ids.span_id)
        request.stage_spans = [] if span.is_recording() else None
        return span

    def end_request(self, span: Any, scope: Scope, route: str | None, status: int, request: RequestContext) -> None:
        """Add the route, the model, the status and the stages of an answered request to its span, and end it."""
        from opentelemetry.trace import StatusCode

        if request.stage_spans is None:
            return
        method = scope["method"] if scope["method"] in HTTP_METHODS else "HTTP"
        span.update_name(f"{method} {route}" if route else method)
        if route:
            span.set_attribute("http.route", route)
        if request.model:
            span.set_attributes({"percept.model": request.model, "percept.version": request.version})
        span.set_attribute("http.response.status_code", status)
        if status >= 500:
            span.set_attribute("error.type", str(status))
            span.set_status(StatusCode.ERROR)
        epoch = _perf_counter_epoch_ns()
        self._add_stages(span, request, epoch)
        span.end(epoch + _ns(perf_counter()))

    def _add_stages(self, span: Any, request: RequestContext, epoch: int) -> None:
        from opentelemetry.trace import set_span_in_context

        parent = set_span_in_context(span)
        for stage, start, end in list(request.stage_spans or ()):  # a thread of an abandoned job may still add to it
            self._tracer.start_span(stage, parent, start_time=epoch + _ns(start)).end(epoch + _ns(end))

    def close(self) -> None:
        """Export the spans that are left; blocks until they are sent or the exporter gives up."""
        self._provider.shutdown()


def _request_attributes(scope: Scope, request: RequestContext) -> dict[str, str]:
    """The attributes of a request that has just arrived, named by OpenTelemetry's semantic conventions for HTTP."""
    method = scope["method"]
    known = method in HTTP_METHODS
    return {
        "http.request.method": method if known else "_OTHER",
        "url.path": scope["path"],
        "url.scheme": scope.get("scheme", "http"),
        "percept.request_id": request.id,
        **({} if known else {"http.request.method_original": method}),
    }


def _parent_context(scope: Scope) -> "Context":
    """The client's span, from the headers `traceparent` and `tracestate`."""
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier: dict[str, list[str]] = {}
    for name, value in scope["headers"]:
        carrier.setdefault(name.decode("latin-1"), []).append(value.decode("latin-1"))
    return TraceContextTextMapPropagator().extract(carrier)


def _perf_counter_epoch_ns() -> int:
    """The Unix time at which `perf_counter` was 0, in nanoseconds."""
    return time_ns() - _ns(perf_counter())


def _ns(seconds: float) -> int:
    return int(seconds * NS_PER_S)
