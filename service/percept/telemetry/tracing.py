"""Traces for OpenTelemetry: a span for each request, and inside it one for each stage of the request.

Where the standard variables ask for traces they go where these say. Where they do not, nothing of OpenTelemetry's SDK
is imported or opened; where it is not installed, a warning says what to install. Whatever else it has variables for
(sampling, headers, batches, names) the SDK reads itself. Queries are not told: they are the client's.
"""

import logging
from collections.abc import Sequence
from time import perf_counter, time_ns
from typing import TYPE_CHECKING, Any, Optional

from starlette.types import Scope

from percept import __version__
from percept.settings import PROTOCOL, Telemetry
from percept.telemetry.context import Account

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Span

log = logging.getLogger(__name__)

# What the semantic conventions know; any other method is one that a client made up.
METHODS = frozenset({"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY", "TRACE"})
SECOND = 10**9


def tracing(telemetry: Telemetry) -> Optional["Tracing"]:
    """The tracing that the variables ask for; None where they ask for none, or it cannot be had."""
    names = telemetry.exporters
    if "otlp" in names and telemetry.protocol != PROTOCOL:
        log.warning("traces are sent as %s: there is no %s here", PROTOCOL, telemetry.protocol)
    try:
        exporters = [_exporter(name) for name in names]
        return Tracing(exporters) if exporters else None
    except ModuleNotFoundError as error:
        log.warning("traces are asked for, but %s is not installed: pip install 'percept-serve[otel]'", error.name)
        return None


def _exporter(name: str) -> "SpanExporter":
    if name == "console":
        from opentelemetry.sdk.trace.export import ConsoleSpanExporter

        return ConsoleSpanExporter()
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    return OTLPSpanExporter()


class Tracing:
    """The spans of one application, on their way to the exporters."""

    def __init__(self, exporters: Sequence["SpanExporter"]) -> None:
        from opentelemetry.sdk.resources import OTELResourceDetector, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        own = Resource({"service.name": "percept", "service.version": __version__})
        named = own.merge(OTELResourceDetector().detect())  # the operator's name for a service comes before ours
        # Not the provider of the process: an application that mounts this one has its own.
        self._provider = TracerProvider(resource=Resource.create(dict(named.attributes)))
        for exporter in exporters:
            self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("percept", __version__)

    def begin(self, scope: Scope, account: Account, start: float) -> "Span":
        """The span of a request that began at `start` by `perf_counter`. The account learns its ids, and keeps from now
        on when its stages were if the span is recorded.
        """
        from opentelemetry.trace import SpanKind, format_span_id, format_trace_id

        given = scope["method"]
        method = given if given in METHODS else "_OTHER"
        known = {
            "http.request.method": method,
            "url.path": scope["path"],
            "url.scheme": scope.get("scheme", "http"),
            "percept.request_id": account.id,
        }
        if method != given:
            known["http.request.method_original"] = given
        parent = _parent(scope) if account.trace_id else None
        span = self._tracer.start_span("HTTP", parent, SpanKind.SERVER, known, start_time=_zero() + _ns(start))
        ids = span.get_span_context()
        account.trace_id, account.span_id = format_trace_id(ids.trace_id), format_span_id(ids.span_id)
        account.moments = [] if span.is_recording() else None
        return span

    def end(self, span: Any, scope: Scope, route: str | None, status: int, account: Account) -> None:
        """End the span of a request, now that it is known what became of it."""
        from opentelemetry.trace import StatusCode, set_span_in_context

        if account.moments is None:
            return
        method = scope["method"] if scope["method"] in METHODS else "HTTP"
        span.update_name(f"{method} {route}" if route else method)
        if route:
            span.set_attribute("http.route", route)
        if account.model:
            span.set_attributes({"percept.model": account.model, "percept.version": account.version})
        span.set_attribute("http.response.status_code", status)
        if status >= 500:
            span.set_attribute("error.type", str(status))
            span.set_status(StatusCode.ERROR)
        zero = _zero()
        inside = set_span_in_context(span)
        for stage, start, end in list(account.moments):
            self._tracer.start_span(stage, inside, start_time=zero + _ns(start)).end(zero + _ns(end))
        span.end(zero + _ns(perf_counter()))

    def close(self) -> None:
        """Send what is left; blocks."""
        self._provider.shutdown()


def _parent(scope: Scope) -> "Context":
    """The span that the client asks in, by its `traceparent` and `tracestate`."""
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier: dict[str, list[str]] = {}
    for name, value in scope["headers"]:
        carrier.setdefault(name.decode("latin-1"), []).append(value.decode("latin-1"))
    return TraceContextTextMapPropagator().extract(carrier)


def _zero() -> int:
    """When `perf_counter` was 0, in nanoseconds since 1970."""
    return time_ns() - _ns(perf_counter())


def _ns(seconds: float) -> int:
    return int(seconds * SECOND)
