"""Traces reach a collector as OpenTelemetry's own library sends them, and only where its variables ask for them."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from starlette.responses import PlainTextResponse

from percept.server.app import create_app
from percept.server.middleware import Timing
from percept.settings import Settings, Telemetry
from percept.telemetry.context import MAX_MOMENTS, STAGES, begin, note
from percept.telemetry.metrics import Metrics
from percept.telemetry.tracing import Tracing
from tests.conftest import ROOT, Server
from tests.photos import encoded, marked

PHOTO = encoded(marked((640, 480), (200, 200), 60), "JPEG")
MODEL = "classification-squeeze"
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SOON = {"OTEL_BSP_SCHEDULE_DELAY": "50"}


class Collector:
    """Takes traces over OTLP/HTTP, as an OpenTelemetry Collector does."""

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
        """All that have come so far."""
        resources = [resource for request in tuple(self.requests) for resource in request.resource_spans]
        return [span for resource in resources for scope in resource.scope_spans for span in scope.spans]

    def of(self, id: str) -> tuple[Span, list[Span]]:
        """The span of a request by the request's id, which may be on its way yet, and the spans right below it."""
        for _ in range(200):
            for span in self.spans:
                if attributes(span).get("percept.request_id") == id:
                    return span, [each for each in self.spans if each.parent_span_id == span.span_id]
            time.sleep(0.05)
        raise AssertionError(f"no span of {id!r} among {[span.name for span in self.spans]}")


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    """A collector on a real socket."""
    found = Collector()
    yield found
    found.server.shutdown()
    found.server.server_close()


@pytest.fixture(scope="module")
def traced(start: Callable[..., Server], bundles: Path, collector: Collector) -> Server:
    """A server whose traces go to the collector."""
    own = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.address, "OTEL_SERVICE_NAME": "eyes", **SOON}
    return start(bundles, PERCEPT_LOG_FORMAT="json", **own)


def attributes(span: Any) -> dict[str, str | int]:
    return {one.key: one.value.string_value or one.value.int_value for one in span.attributes}


def asked(server: Server, id: str, url: str = f"/predict?model={MODEL}", **headers: str) -> Any:
    return server.client.post(url, content=PHOTO, headers={"x-request-id": id, **headers})


def test_a_request_is_a_span_with_its_stages_below(traced: Server, collector: Collector) -> None:
    before = time.time_ns()
    answer = asked(traced, "tree", f"/cam?model={MODEL}&top=3")
    span, below = collector.of("tree")
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
    told = {part.split(";")[0] for part in answer.headers["server-timing"].split(", ")} - {"total"}
    assert {each.name for each in below} == told == set(STAGES)
    assert before <= span.start_time_unix_nano < span.end_time_unix_nano <= time.time_ns()
    for each in below:
        assert (each.trace_id, each.kind) == (span.trace_id, Span.SPAN_KIND_INTERNAL)
        assert span.start_time_unix_nano <= each.start_time_unix_nano <= each.end_time_unix_nano
        assert each.end_time_unix_nano <= span.end_time_unix_nano
    first = {each.name: each.start_time_unix_nano for each in reversed(below)}
    assert first["receive"] < first["queue"] < first["decode"] < first["infer"] < first["tail"] < first["render"]


def test_the_service_says_who_it_is(traced: Server, collector: Collector) -> None:
    asked(traced, "who")
    collector.of("who")
    (resource,) = {request.resource_spans[0].resource.SerializeToString() for request in collector.requests}
    known = attributes(collector.requests[0].resource_spans[0].resource)
    assert resource
    assert known["service.name"] == "eyes"
    assert known["service.version"]
    assert collector.paths == {"/v1/traces"}


def test_a_request_joins_the_trace_of_its_client(traced: Server, collector: Collector) -> None:
    asked(traced, "child", traceparent=f"00-{TRACE}-{PARENT}-01", tracestate="vendor=a,other=b")
    span, below = collector.of("child")
    assert span.trace_id.hex() == TRACE
    assert span.parent_span_id.hex() == PARENT
    assert span.trace_state == "vendor=a,other=b"
    assert {each.trace_id.hex() for each in below} == {TRACE}


def test_a_trace_that_is_written_wrongly_is_not_joined(traced: Server, collector: Collector) -> None:
    asked(traced, "own", traceparent=f"00-{TRACE}-{PARENT}-01-more", tracestate="vendor=a")
    span, _ = collector.of("own")
    assert span.trace_id.hex() != TRACE
    assert (span.parent_span_id, span.trace_state) == (b"", "")


def test_who_does_not_want_to_be_traced_is_not(traced: Server, collector: Collector) -> None:
    asked(traced, "unsampled", traceparent=f"00-{TRACE}-{PARENT}-00")
    asked(traced, "afterwards")
    collector.of("afterwards")
    assert not any(attributes(span).get("percept.request_id") == "unsampled" for span in collector.spans)
    assert TRACE in traced.logged("unsampled")


def test_the_log_has_the_ids_of_the_span(traced: Server, collector: Collector) -> None:
    asked(traced, "logged")
    span, _ = collector.of("logged")
    line = traced.logged("logged")
    assert f'"trace_id": "{span.trace_id.hex()}", "span_id": "{span.span_id.hex()}"' in line


def test_a_slow_request_can_be_found_from_its_histogram(traced: Server, collector: Collector) -> None:
    asked(traced, "exemplar")
    span, _ = collector.of("exemplar")
    text = traced.client.get("/metrics", headers={"accept": "application/openmetrics-text; version=1.0.0"}).text
    assert f'# {{trace_id="{span.trace_id.hex()}"}}' in text


def test_what_nobody_serves_has_no_route(traced: Server, collector: Collector) -> None:
    traced.client.get("/coffee?with=milk", headers={"x-request-id": "nowhere"})
    span, _ = collector.of("nowhere")
    assert span.name == "GET"
    assert "http.route" not in attributes(span)
    assert attributes(span)["http.response.status_code"] == 404
    assert not any("milk" in str(each) for each in collector.spans)


def test_a_method_that_a_client_made_up_is_no_name_of_a_span_and_a_probe_has_none() -> None:
    """Our own server refuses such a method; others that run this application may not."""
    exporter = InMemorySpanExporter()
    tracing = Tracing([exporter])
    client = TestClient(Timing(PlainTextResponse("tea"), Metrics(), tracing))
    client.request("BREW", "/coffee")
    client.get("/health/live")  # as often as anybody looks: of no interest
    tracing.close()
    (span,) = exporter.get_finished_spans()
    assert span.name == "HTTP"
    assert span.attributes["http.request.method"] == "_OTHER"
    assert span.attributes["http.request.method_original"] == "BREW"


def test_what_the_client_did_wrong_is_no_error_of_the_service(traced: Server, collector: Collector) -> None:
    asked(traced, "wrong", "/predict?model=nobody")
    span, _ = collector.of("wrong")
    assert span.status.code == Status.STATUS_CODE_UNSET
    assert "error.type" not in attributes(span)


def test_what_the_service_could_not_do_is_an_error(
    start: Callable[..., Server], bundles: Path, collector: Collector
) -> None:
    own = {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"{collector.address}/v1/traces", **SOON}
    late = start(bundles, PERCEPT_DEADLINE_S="0.001", **own)
    assert asked(late, "late").status_code == 504
    span, _ = collector.of("late")
    assert span.status.code == Status.STATUS_CODE_ERROR
    assert attributes(span)["error.type"] == "504"


def test_what_is_left_is_sent_at_the_end(start: Callable[..., Server], bundles: Path, collector: Collector) -> None:
    own = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.address, "OTEL_BSP_SCHEDULE_DELAY": "600000"}
    server = start(bundles, **own)
    asked(server, "last")
    server.process.terminate()
    assert server.process.wait(20) in (0, -15)
    assert collector.of("last")[0].name == "POST /predict"


def test_a_collector_that_is_away_fails_nobody(start: Callable[..., Server], bundles: Path) -> None:
    server = start(bundles, OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9", **SOON)
    assert [asked(server, "alone").status_code for _ in range(3)] == [200] * 3


@pytest.mark.parametrize(
    ("variables", "exporters"),
    [
        ({}, []),
        ({"exporter_otlp_endpoint": "http://a:4318"}, ["otlp"]),
        ({"exporter_otlp_traces_endpoint": "http://a:4318/v1/traces"}, ["otlp"]),
        ({"traces_exporter": "otlp"}, ["otlp"]),
        ({"traces_exporter": "console"}, ["console"]),
        ({"traces_exporter": "otlp, console,otlp"}, ["otlp", "console"]),
        ({"traces_exporter": "none", "exporter_otlp_endpoint": "http://a:4318"}, []),
        ({"traces_exporter": "zipkin"}, []),
        ({"exporter_otlp_endpoint": "http://a:4318", "sdk_disabled": "True"}, []),
        ({"exporter_otlp_endpoint": "http://a:4318", "sdk_disabled": "no"}, ["otlp"]),
    ],
)
def test_the_variables_say_where_traces_go(variables: dict[str, str], exporters: list[str]) -> None:
    assert list(Telemetry(**variables).exporters) == exporters


def test_variables_are_those_of_the_standard(monkeypatch) -> None:
    for name in Telemetry.model_fields:
        monkeypatch.setenv(f"OTEL_{name.upper()}", name)
    assert Telemetry().model_dump() == {name: name for name in Telemetry.model_fields}


@pytest.mark.parametrize("asked", ["{}", "{'OTEL_TRACES_EXPORTER': 'none'}", "{'OTEL_SDK_DISABLED': 'true'}"])
def test_nothing_is_imported_that_nobody_asked_for(asked: str) -> None:
    """FastAPI itself imports the interface since it knows OpenTelemetry, but neither the library nor an exporter."""
    code = (
        f"import os, sys; os.environ.update({asked})\n"
        "from service.app import create_app; create_app()\n"
        "print([m for m in sys.modules if m.startswith(('opentelemetry.sdk', 'opentelemetry.exporter'))])"
    )
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"


def test_what_is_not_installed_is_said_and_no_failure(bundles: Path, caplog, monkeypatch) -> None:
    for name in [name for name in sys.modules if name.startswith(("opentelemetry.sdk", "opentelemetry.exporter"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk", None)
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter", None)
    telemetry = Telemetry(exporter_otlp_endpoint="http://127.0.0.1:9")
    with TestClient(create_app(Settings(models=bundles, device="cpu"), telemetry)) as client:
        assert client.get("/health/live").status_code == 200
    assert "pip install 'percept-serve[otel]'" in caplog.text


def test_another_protocol_is_not_taken_in_silence(bundles: Path, caplog) -> None:
    telemetry = Telemetry(exporter_otlp_endpoint="http://127.0.0.1:9", exporter_otlp_protocol="grpc")
    with TestClient(create_app(Settings(models=bundles, device="cpu"), telemetry)):
        assert "sent as http/protobuf: there is no grpc here" in caplog.text


def test_no_request_has_more_moments_than_a_trace_can_bear() -> None:
    account = begin()
    note("tail", 0, 1)
    assert account.moments is None
    account.moments = []
    for k in range(2 * MAX_MOMENTS):
        note("tail", k, k + 1)
    assert len(account.moments) == MAX_MOMENTS
    assert account.spent == {"tail": 2 * MAX_MOMENTS + 1}
