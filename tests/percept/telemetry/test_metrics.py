"""The metrics count every request, stage, queue and model, with few label values, as Prometheus's conventions say."""

import asyncio
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics

from percept.server.app import create_app
from percept.server.collectors import GAUGES
from percept.settings import Settings
from percept.telemetry.context import STAGES
from tests.conftest import Server
from tests.percept.scrape import Scrape, scrape
from tests.photos import draw_marker, encode_photo

PHOTO = encode_photo(draw_marker((640, 480), (200, 200), 60), "JPEG")
LARGE = encode_photo(draw_marker((3000, 2000), (700, 700), 300), "PNG")
MODEL = "classification-squeeze"
OPENMETRICS = "application/openmetrics-text; version=1.0.0"
# Name, type and labels of every metric: the contract with dashboards and alerts.
CONTRACT = {
    "percept_build_info": ("gauge", {"version", "onnxruntime", "device"}),
    "percept_ready": ("gauge", set()),
    "percept_requests_total": ("counter", {"endpoint", "model", "version", "code"}),
    "percept_request_duration_seconds": ("histogram", {"endpoint", "model", "code"}),
    "percept_requests_in_flight": ("gauge", set()),
    "percept_stage_duration_seconds": ("histogram", {"endpoint", "model", "stage"}),
    "percept_queue_depth": ("gauge", {"model", "version"}),
    "percept_queue_capacity": ("gauge", {"model", "version"}),
    "percept_queue_wait_seconds": ("histogram", {"model", "version"}),
    "percept_batch_size": ("histogram", {"model", "version"}),
    "percept_refusals_total": ("counter", {"model", "reason"}),
    "percept_model_info": ("gauge", {"model", "version", "task", "precision"}),
    "percept_model_load_duration_seconds": ("gauge", {"model", "version"}),
    "percept_model_loaded_timestamp_seconds": ("gauge", {"model", "version"}),
    "percept_bundles_refused": ("gauge", set()),
    "percept_store_bytes": ("gauge", set()),
    "percept_store_images": ("gauge", set()),
    "percept_store_lookups_total": ("counter", {"result"}),
}


@pytest.fixture(scope="module")
def used_server(start: Callable[..., Server], bundles: Path) -> Server:
    """A server that has answered a known number of requests of each kind."""
    server = start(bundles)
    for _ in range(3):
        id = server.client.post(f"/predict?model={MODEL}", content=PHOTO).json()["id"]
    server.client.post(f"/predict?model={MODEL}", content=b"no image")
    server.client.post(f"/cam?model={MODEL}", content=PHOTO)
    assert server.client.get(f"/cam/{id}").status_code == 200
    server.client.get("/cam/unknown")
    server.client.get("/features/unknown")
    server.client.get(f"/models/{MODEL}")
    server.client.post("/predict?model=nobody", content=PHOTO)
    for path in ("/a", "/b", "/c"):
        server.client.get(path)
    return server


@pytest.fixture(scope="module")
def metrics(used_server: Server) -> Scrape:
    """The metrics of `used_server`."""
    return scrape(used_server.client)


@pytest.mark.parametrize("name", CONTRACT.keys() - {"percept_refusals_total"})
def test_metric_has_its_type_and_labels(metrics: Scrape, name: str) -> None:
    kind, labels = CONTRACT[name]
    (family,) = (family for family in metrics.families if family.name == name.removesuffix("_total"))
    assert family.type == kind
    assert len(family.documentation) > 10
    assert family.samples
    assert {frozenset(sample.labels.keys() - {"le"}) for sample in family.samples} == {frozenset(labels)}


def test_metrics_are_those_of_the_contract(metrics: Scrape) -> None:
    own = {family.name for family in metrics.families if family.name.startswith("percept_")}
    assert own == {name.removesuffix("_total") for name in CONTRACT}
    assert GAUGES.keys() < CONTRACT.keys()
    assert {"process_resident_memory_bytes", "process_cpu_seconds", "process_open_fds", "python_info"} < {
        family.name for family in metrics.families
    }


def test_requests_are_counted_by_endpoint_model_and_code(metrics: Scrape) -> None:
    def requests(endpoint: str, code: int, model: str = "", version: str = "") -> float:
        return metrics.value("requests_total", endpoint=endpoint, model=model, version=version, code=str(code))

    assert requests("/predict", 200, MODEL, "1") == 3
    assert requests("/predict", 415, MODEL, "1") == 1
    assert requests("/cam", 200, MODEL, "1") == 1
    assert requests("/cam/{id}", 200, MODEL, "1") == 1
    assert requests("/cam/{id}", 404) == 1
    assert requests("/models/{name}", 200, MODEL, "1") == 1
    assert requests("/predict", 404) == 1
    assert requests("other", 404) == 3
    assert metrics.value("request_duration_seconds_count", endpoint="/predict", model=MODEL, code="200") == 3
    assert 0 < metrics.value("request_duration_seconds_sum", endpoint="/predict", model=MODEL, code="200") < 60


def test_durations_are_recorded_by_stage(metrics: Scrape) -> None:
    def count(endpoint: str, stage: str) -> float:
        return metrics.value("stage_duration_seconds_count", endpoint=endpoint, model=MODEL, stage=stage)

    assert count("/predict", "infer") == 3
    assert count("/predict", "decode") == 4
    assert not metrics.has("stage_duration_seconds_count", endpoint="/predict", model=MODEL, stage="tail")
    assert count("/cam", "tail") == 1
    assert {series["stage"] for series in metrics.labels("stage_duration_seconds_count")} == set(STAGES)
    assert 0 < metrics.value("stage_duration_seconds_sum", endpoint="/predict", model=MODEL, stage="infer") < 60


def test_queues_are_measured_by_model(metrics: Scrape) -> None:
    labels = {"model": MODEL, "version": "1"}
    assert metrics.value("queue_depth", **labels) == 0
    assert metrics.value("queue_capacity", **labels) == 256
    # Three predictions, the body that is no image, and two heatmaps.
    assert metrics.value("queue_wait_seconds_count", **labels) == 6
    assert metrics.value("batch_size_count", **labels) == metrics.value("batch_size_sum", **labels) == 5
    assert metrics.value("batch_size_bucket", le="1.0", **labels) == 5
    assert metrics.value("queue_wait_seconds_count", model="segmentation-pad", version="1") == 0


def test_clients_cannot_create_label_values(used_server: Server) -> None:
    client = used_server.client
    before = scrape(client)
    for k in range(20):
        client.get(f"/nothing/{k}")
        client.get(f"/cam/{k}")
        client.post(f"/predict?model=m{k}", content=PHOTO)
        client.post(f"/predict?model={MODEL}&version={k + 2}", content=PHOTO)
        client.request(f"X{k}", "/predict")
    after = scrape(client)
    added = [series for series in after.labels("requests_total") if series not in before.labels("requests_total")]
    assert {(series["endpoint"], series["model"], series["version"]) for series in added} <= {
        ("/predict", "", ""),
        ("other", "", ""),
    }
    assert len(added) <= 2
    paths = client.get("/openapi.json").json()["paths"].keys() | {"/openapi.json", "other"}
    assert {series["endpoint"] for series in after.labels("requests_total")} <= paths


def test_scrape_is_not_counted_as_in_flight(used_server: Server) -> None:
    assert scrape(used_server.client).value("requests_in_flight") == 0


def test_overload_shows_in_queue_depth_and_refusals(start: Callable[..., Server], bundles: Path) -> None:
    """During the overload the queue is full; afterwards refusals and queue waits of the others are counted."""
    server = start(bundles, PERCEPT_MAX_QUEUE="4", PERCEPT_THREADS="1")

    async def overload() -> tuple[list[httpx.Response], list[Scrape]]:
        scrapes = []
        async with httpx.AsyncClient(base_url=server.client.base_url, timeout=60) as http:
            tasks = [asyncio.create_task(http.post(f"/predict?model={MODEL}", content=LARGE)) for _ in range(24)]
            while not all(task.done() for task in tasks):
                scrapes.append(Scrape((await http.get("/metrics")).text))
            return [task.result() for task in tasks], scrapes

    responses, scrapes = asyncio.run(overload())
    labels = {"model": MODEL, "version": "1"}
    refused = sum(response.status_code == 429 for response in responses)
    served = sum(response.status_code == 200 for response in responses)
    assert refused
    assert refused + served == 24
    depths = [found.value("queue_depth", **labels) for found in scrapes]
    assert 1 <= max(depths) <= scrapes[0].value("queue_capacity", **labels) == 4
    assert max(found.value("requests_in_flight") for found in scrapes) >= 2
    after = scrape(server.client)
    assert after.value("queue_depth", **labels) == after.value("requests_in_flight") == 0
    assert after.value("refusals_total", model=MODEL, reason="queue_full") == refused
    assert after.value("requests_total", endpoint="/predict", code="429", **labels) == refused
    assert after.value("queue_wait_seconds_count", **labels) == served
    decoding = after.value("stage_duration_seconds_sum", endpoint="/predict", model=MODEL, stage="decode")
    # With one thread every other image waits at least while the first is decoded.
    assert after.value("queue_wait_seconds_sum", **labels) > decoding / served


def test_exceeded_deadline_is_counted(start: Callable[..., Server], bundles: Path) -> None:
    server = start(bundles, PERCEPT_DEADLINE_S="0.001")
    assert server.client.post(f"/predict?model={MODEL}", content=LARGE).status_code == 504
    metrics = scrape(server.client)
    assert metrics.value("refusals_total", model=MODEL, reason="deadline_exceeded") == 1
    assert metrics.value("requests_total", endpoint="/predict", model=MODEL, version="1", code="504") == 1


def test_every_refused_image_of_a_request_is_counted(start: Callable[..., Server], bundles: Path) -> None:
    server = start(bundles, PERCEPT_DEADLINE_S="0.001")
    files = [("image", (f"{k}.png", LARGE)) for k in range(3)]
    results = server.client.post(f"/predict?model={MODEL}", files=files).json()["results"]
    assert [result["code"] for result in results] == ["deadline_exceeded"] * 3
    assert all("instance" not in result for result in results)
    assert scrape(server.client).value("refusals_total", model=MODEL, reason="deadline_exceeded") == 3


def test_not_ready_requests_are_counted_without_probes(start: Callable[..., Server], tmp_path: Path) -> None:
    client = start(tmp_path, wait=False).client
    for _ in range(3):
        assert client.get("/health/ready").status_code == 503
    assert client.post("/predict", content=PHOTO).status_code == 503
    metrics = scrape(client)
    assert metrics.value("refusals_total", model="", reason="not_ready") == 1
    assert metrics.value("ready") == 0
    assert metrics.labels("model_info") == []


def test_disconnected_client_is_counted_as_abandoned(bundles: Path) -> None:
    async def sleep(*_: object) -> None:
        await asyncio.sleep(60)

    messages = [{"type": "http.request", "body": PHOTO, "more_body": False}]

    async def receive() -> dict[str, Any]:
        return messages.pop() if messages else {"type": "http.disconnect"}

    async def send(_: object) -> None:
        pass

    async def run() -> Scrape:
        app = create_app(Settings(models=bundles, device="cpu"))
        async with app.router.lifespan_context(app):
            while not app.state.percept.repository.models:
                await asyncio.sleep(0.05)
            app.state.percept.pipeline.predict = sleep
            query = f"model={MODEL}".encode()
            scope = {"type": "http", "method": "POST", "path": "/predict", "query_string": query, "headers": []}
            await asyncio.wait_for(app(scope, receive, send), 20)
            return Scrape(app.state.percept.metrics.render()[0].decode())

    metrics = asyncio.run(run())
    assert metrics.value("refusals_total", model=MODEL, reason="abandoned") == 1
    assert metrics.value("requests_total", endpoint="/predict", model=MODEL, version="1", code="499") == 1


def test_applications_count_separately(bundles: Path) -> None:
    settings = Settings(models=bundles, device="cpu")
    with TestClient(create_app(settings)) as used, TestClient(create_app(settings)) as unused:
        used.get("/models")
        endpoints = [series["endpoint"] for series in Scrape(used.get("/metrics").text).labels("requests_total")]
        assert "/models" in endpoints
        assert not Scrape(unused.get("/metrics").text).has(
            "requests_total", endpoint="/models", model="", version="", code="200"
        )


def test_openmetrics_is_sent_where_accepted(used_server: Server) -> None:
    response = used_server.client.get("/metrics", headers={"accept": OPENMETRICS})
    assert response.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    assert response.text.endswith("# EOF\n")
    names = {family.name for family in parse_openmetrics(response.text)}
    assert {name.removesuffix("_total") for name in CONTRACT} <= names
    default = used_server.client.get("/metrics")
    assert default.headers["content-type"].startswith("text/plain; version=0.0.4")


def test_promtool_accepts_the_metrics(used_server: Server) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("no promtool: it comes with Prometheus")
    text = used_server.client.get("/metrics").content
    done = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
