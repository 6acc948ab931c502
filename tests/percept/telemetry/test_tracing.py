"""Traces are sent over OTLP to a real collector, and only where OpenTelemetry's variables request them."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from fastapi.testclient import TestClient
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from starlette.responses import PlainTextResponse

from percept.server.app import create_app
from percept.server.middleware import RequestTelemetry
from percept.settings import Settings, TracingSettings
from percept.telemetry.context import STAGES
from percept.telemetry.metrics import Metrics
from percept.telemetry.tracing import Tracing
from tests.conftest import ROOT, Server
from tests.photos import draw_marker, encode_photo

PHOTO = encode_photo(draw_marker((640, 480), (200, 200), 60), "JPEG")
MODEL = "classification-squeeze"
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
EXPORT_DELAY = {"OTEL_BSP_SCHEDULE_DELAY": "50"}  # milliseconds


class Collector:
    """Receives traces over OTLP/HTTP, as an OpenTelemetry Collector does."""

    def __init__(self) -> None:
        self.requests: list[ExportTraceServiceRequest] = []
        self.paths: set[str] = set()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                collector.paths.add(self.path)
                collector.requests.append(ExportTraceServiceRequest.FromString(body))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def spans(self) -> list[Span]:
        """The spans received so far."""
        resources = [resource for request in tuple(self.requests) for resource in request.resource_spans]
        return [span for resource in resources for scope in resource.scope_spans for span in scope.spans]

    def wait_for(self, id: str) -> tuple[Span, list[Span]]:
        """Return the span of a request by the request's id, and its child spans; waits up to 10 s for it."""
        for _ in range(200):
            for span in self.spans:
                if attributes(span).get("percept.request_id") == id:
                    return span, [each for each in self.spans if each.parent_span_id == span.span_id]
            time.sleep(0.05)
        raise AssertionError(f"no span of request {id!r} among {[span.name for span in self.spans]}")


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    """A collector on a real socket."""
    collector = Collector()
    yield collector
    collector.server.shutdown()
    collector.server.server_close()


@pytest.fixture(scope="module")
def traced_server(start: Callable[..., Server], bundles: Path, collector: Collector) -> Server:
    """A server that sends its traces to the collector."""
    variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.address, "OTEL_SERVICE_NAME": "eyes", **EXPORT_DELAY}
    return start(bundles, PERCEPT_LOG_FORMAT="json", **variables)


def attributes(span: Span | Resource) -> dict[str, str | int]:
    return {pair.key: pair.value.string_value or pair.value.int_value for pair in span.attributes}


def send(server: Server, id: str, url: str = f"/predict?model={MODEL}", **headers: str) -> httpx.Response:
    return server.client.post(url, content=PHOTO, headers={"x-request-id": id, **headers})


def test_request_span_has_a_child_per_stage(traced_server: Server, collector: Collector) -> None:
    before = time.time_ns()
    response = send(traced_server, "tree", f"/cam?model={MODEL}&top=3")
    span, children = collector.wait_for("tree")
    assert (span.name, span.kind, span.status.code) == ("POST /cam", Span.SPAN_KIND_SERVER, Status.STATUS_CODE_UNSET)
    assert attributes(span) == {
        "http.request.method": "POST",
        "http.route": "/cam",
        "http.response.status_code": 200,
        "url.path": "/cam",
        "url.scheme": "http",
        "percept.request_id": "tree",
        "percept.model": MODEL,
        "percept.version": "1",
    }
    timed = {part.split(";")[0] for part in response.headers["server-timing"].split(", ")} - {"total"}
    assert {child.name for child in children} == timed == set(STAGES)
    assert before <= span.start_time_unix_nano < span.end_time_unix_nano <= time.time_ns()
    for child in children:
        assert (child.trace_id, child.kind) == (span.trace_id, Span.SPAN_KIND_INTERNAL)
        assert span.start_time_unix_nano <= child.start_time_unix_nano <= child.end_time_unix_nano
        assert child.end_time_unix_nano <= span.end_time_unix_nano
    first = {child.name: child.start_time_unix_nano for child in reversed(children)}
    assert first["receive"] < first["queue"] < first["decode"] < first["infer"] < first["tail"] < first["render"]


def test_resource_names_the_service(traced_server: Server, collector: Collector) -> None:
    send(traced_server, "who")
    collector.wait_for("who")
    (resource,) = {request.resource_spans[0].resource.SerializeToString() for request in collector.requests}
    assert resource
    found = attributes(collector.requests[0].resource_spans[0].resource)
    assert found["service.name"] == "eyes"
    assert found["service.version"]
    assert collector.paths == {"/v1/traces"}


def test_request_joins_the_trace_of_its_client(traced_server: Server, collector: Collector) -> None:
    send(traced_server, "child", traceparent=f"00-{TRACE}-{PARENT}-01", tracestate="vendor=a,other=b")
    span, children = collector.wait_for("child")
    assert span.trace_id.hex() == TRACE
    assert span.parent_span_id.hex() == PARENT
    assert span.trace_state == "vendor=a,other=b"
    assert {child.trace_id.hex() for child in children} == {TRACE}


def test_malformed_traceparent_is_not_joined(traced_server: Server, collector: Collector) -> None:
    send(traced_server, "own", traceparent=f"00-{TRACE}-{PARENT}-01-more", tracestate="vendor=a")
    span, _ = collector.wait_for("own")
    assert span.trace_id.hex() != TRACE
    assert (span.parent_span_id, span.trace_state) == (b"", "")


def test_unsampled_request_is_not_traced(traced_server: Server, collector: Collector) -> None:
    send(traced_server, "unsampled", traceparent=f"00-{TRACE}-{PARENT}-00")
    send(traced_server, "afterwards")
    collector.wait_for("afterwards")
    assert not any(attributes(span).get("percept.request_id") == "unsampled" for span in collector.spans)
    assert TRACE in traced_server.wait_for_log("unsampled")


def test_log_has_the_ids_of_the_span(traced_server: Server, collector: Collector) -> None:
    send(traced_server, "logged")
    span, _ = collector.wait_for("logged")
    line = traced_server.wait_for_log("logged")
    assert f'"trace_id": "{span.trace_id.hex()}", "span_id": "{span.span_id.hex()}"' in line


def test_histogram_has_the_trace_as_exemplar(traced_server: Server, collector: Collector) -> None:
    send(traced_server, "exemplar")
    span, _ = collector.wait_for("exemplar")
    text = traced_server.client.get("/metrics", headers={"accept": "application/openmetrics-text; version=1.0.0"}).text
    assert f'# {{trace_id="{span.trace_id.hex()}"}}' in text


def test_unmatched_path_has_no_route(traced_server: Server, collector: Collector) -> None:
    traced_server.client.get("/coffee?with=milk", headers={"x-request-id": "nowhere"})
    span, _ = collector.wait_for("nowhere")
    assert span.name == "GET"
    assert "http.route" not in attributes(span)
    assert attributes(span)["http.response.status_code"] == 404
    assert not any("milk" in str(span) for span in collector.spans)


def trace_locally(method: str, path: str) -> tuple[ReadableSpan, ...]:
    """Return the spans of a request to a small application behind `RequestTelemetry`, without a server."""
    exporter = InMemorySpanExporter()
    tracing = Tracing([exporter])
    TestClient(RequestTelemetry(PlainTextResponse("tea"), Metrics(), tracing)).request(method, path)
    tracing.close()
    return exporter.get_finished_spans()


def test_unknown_method_is_not_a_span_name() -> None:
    """uvicorn refuses such a method; other servers that run this application may not."""
    (span,) = trace_locally("BREW", "/coffee")
    assert span.name == "HTTP"
    assert span.attributes
    assert span.attributes["http.request.method"] == "_OTHER"
    assert span.attributes["http.request.method_original"] == "BREW"


def test_probe_is_not_traced() -> None:
    assert trace_locally("GET", "/health/live") == ()


def test_client_error_is_not_a_span_error(traced_server: Server, collector: Collector) -> None:
    send(traced_server, "wrong", "/predict?model=nobody")
    span, _ = collector.wait_for("wrong")
    assert span.status.code == Status.STATUS_CODE_UNSET
    assert "error.type" not in attributes(span)


def test_server_error_is_a_span_error(start: Callable[..., Server], bundles: Path, collector: Collector) -> None:
    endpoint = f"{collector.address}/v1/traces"
    server = start(bundles, PERCEPT_DEADLINE_S="0.001", OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=endpoint, **EXPORT_DELAY)
    assert send(server, "late").status_code == 504
    span, _ = collector.wait_for("late")
    assert span.status.code == Status.STATUS_CODE_ERROR
    assert attributes(span)["error.type"] == "504"


def test_remaining_spans_are_sent_at_shutdown(
    start: Callable[..., Server], bundles: Path, collector: Collector
) -> None:
    server = start(bundles, OTEL_EXPORTER_OTLP_ENDPOINT=collector.address, OTEL_BSP_SCHEDULE_DELAY="600000")
    send(server, "last")
    server.process.terminate()
    assert server.process.wait(20) == 0
    assert collector.wait_for("last")[0].name == "POST /predict"


def test_missing_collector_fails_no_request(start: Callable[..., Server], bundles: Path) -> None:
    server = start(bundles, OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9", **EXPORT_DELAY)
    assert [send(server, "alone").status_code for _ in range(3)] == [200] * 3


@pytest.mark.parametrize("variables", ["{}", "{'OTEL_TRACES_EXPORTER': 'none'}", "{'OTEL_SDK_DISABLED': 'true'}"])
def test_sdk_is_not_imported_without_request(variables: str) -> None:
    """FastAPI itself imports OpenTelemetry's API since it supports it, but neither the SDK nor an exporter."""
    code = (
        f"import os, sys; os.environ.update({variables})\n"
        "from percept.server.app import create_app; create_app()\n"
        "print([m for m in sys.modules if m.startswith(('opentelemetry.sdk', 'opentelemetry.exporter'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_missing_sdk_is_logged_and_no_failure(
    bundles: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith(("opentelemetry.sdk", "opentelemetry.exporter"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk", None)
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter", None)
    tracing = TracingSettings(exporter_otlp_endpoint="http://127.0.0.1:9")
    with TestClient(create_app(Settings(models=bundles, device="cpu"), tracing)) as client:
        assert client.get("/health/live").status_code == 200
    assert "pip install 'percept-serve[otel]'" in caplog.text


def test_unsupported_protocol_is_logged(bundles: Path, caplog: pytest.LogCaptureFixture) -> None:
    tracing = TracingSettings(exporter_otlp_endpoint="http://127.0.0.1:9", exporter_otlp_protocol="grpc")
    with TestClient(create_app(Settings(models=bundles, device="cpu"), tracing)):
        assert "sent as http/protobuf: grpc is not supported" in caplog.text
