"""Prometheus is told what there is to know, in its own conventions, by names that stay few."""

import asyncio
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pynvml
import pytest
from fastapi.testclient import TestClient
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_families
from prometheus_client.parser import text_string_to_metric_families as families

from percept.server.app import create_app
from percept.server.collectors import GAUGES, Gauges
from percept.settings import Settings
from percept.telemetry.context import STAGES
from tests.conftest import Server
from tests.photos import encoded, marked

PHOTO = encoded(marked((640, 480), (200, 200), 60), "JPEG")
LARGE = encoded(marked((3000, 2000), (700, 700), 300), "PNG")
MODEL = "classification-squeeze"
OPEN = "application/openmetrics-text; version=1.0.0"
# Name, type and labels of every metric of the service's own: the contract with dashboards and alerts.
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


class Numbers:
    """What a scrape gave."""

    def __init__(self, text: str) -> None:
        self.families: list[Metric] = list(families(text))
        self._samples = {(s.name, frozenset(s.labels.items())): s.value for f in self.families for s in f.samples}

    def __call__(self, name: str, **labels: str) -> float | None:
        """The value of one series of the service's own; None where there is none."""
        return self._samples.get((f"percept_{name}", frozenset(labels.items())))

    def labels(self, name: str) -> list[dict[str, str]]:
        """The labels of every series of one name."""
        return [dict(labels) for found, labels in self._samples if found == f"percept_{name}"]


def scraped(client: httpx.Client) -> Numbers:
    return Numbers(client.get("/metrics").text)


@pytest.fixture(scope="module")
def used(start: Callable[..., Server], bundles: Path) -> Server:
    """A server that has been asked a few things, each a known number of times."""
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
def numbers(used: Server) -> Numbers:
    return scraped(used.client)


@pytest.mark.parametrize("name", CONTRACT.keys() - {"percept_refusals_total"})
def test_every_metric_is_there_with_its_labels(numbers: Numbers, name: str) -> None:
    kind, labels = CONTRACT[name]
    (family,) = (family for family in numbers.families if family.name == name.removesuffix("_total"))
    assert family.type == kind
    assert len(family.documentation) > 10
    assert family.samples
    assert {frozenset(sample.labels.keys() - {"le"}) for sample in family.samples} == {frozenset(labels)}


def test_there_are_no_others(numbers: Numbers) -> None:
    own = {family.name for family in numbers.families if family.name.startswith("percept_")}
    assert own == {name.removesuffix("_total") for name in CONTRACT}
    assert GAUGES.keys() < CONTRACT.keys()
    assert {"process_resident_memory_bytes", "process_cpu_seconds", "process_open_fds", "python_info"} < {
        family.name for family in numbers.families
    }


def test_requests_are_counted_by_endpoint_model_and_code(numbers: Numbers) -> None:
    def requests(endpoint: str, code: int, model: str = "", version: str = "") -> float | None:
        return numbers("requests_total", endpoint=endpoint, model=model, version=version, code=str(code))

    assert requests("/predict", 200, MODEL, "1") == 3
    assert requests("/predict", 415, MODEL, "1") == 1
    assert requests("/cam", 200, MODEL, "1") == 1
    assert requests("/cam/{id}", 200, MODEL, "1") == 1
    assert requests("/cam/{id}", 404) == 1
    assert requests("/models/{name}", 200, MODEL, "1") == 1
    assert requests("/predict", 404) == 1
    assert requests("other", 404) == 3
    assert numbers("request_duration_seconds_count", endpoint="/predict", model=MODEL, code="200") == 3
    assert 0 < numbers("request_duration_seconds_sum", endpoint="/predict", model=MODEL, code="200") < 60


def test_the_time_of_requests_is_told_by_stage(numbers: Numbers) -> None:
    def stages(endpoint: str, stage: str) -> float | None:
        return numbers("stage_duration_seconds_count", endpoint=endpoint, model=MODEL, stage=stage)

    assert stages("/predict", "infer") == 3
    assert stages("/predict", "decode") == 4
    assert stages("/predict", "tail") is None
    assert stages("/cam", "tail") == 1
    assert {one["stage"] for one in numbers.labels("stage_duration_seconds_count")} == set(STAGES)
    assert 0 < numbers("stage_duration_seconds_sum", endpoint="/predict", model=MODEL, stage="infer") < 60


def test_the_queue_of_every_model_is_told(numbers: Numbers) -> None:
    labels = {"model": MODEL, "version": "1"}
    assert numbers("queue_depth", **labels) == 0
    assert numbers("queue_capacity", **labels) == 256
    assert numbers("queue_wait_seconds_count", **labels) == 6  # three and one of no image, and two of heatmaps
    assert numbers("batch_size_count", **labels) == numbers("batch_size_sum", **labels) == 5
    assert numbers("batch_size_bucket", le="1.0", **labels) == 5
    assert numbers("queue_wait_seconds_count", model="segmentation-pad", version="1") == 0


def test_the_models_and_the_store_are_told(numbers: Numbers) -> None:
    now = time.time()
    assert numbers("ready") == 1
    assert numbers("bundles_refused") == 0
    assert numbers("model_info", model=MODEL, version="1", task="classification", precision="float32") == 1
    assert 0 < numbers("model_load_duration_seconds", model=MODEL, version="1") < 60
    assert now - 600 < numbers("model_loaded_timestamp_seconds", model=MODEL, version="1") <= now
    assert numbers("store_images") == 4
    assert numbers("store_bytes") > 4 * len(PHOTO)
    assert numbers("store_lookups_total", result="hit") == 1
    assert numbers("store_lookups_total", result="miss") == 2
    (build,) = numbers.labels("build_info")
    assert build["device"] == "cpu"
    assert re.match(r"\d+\.\d+", build["onnxruntime"])


def test_who_asks_for_anything_makes_no_new_labels(used: Server) -> None:
    before = scraped(used.client)
    for k in range(20):
        used.client.get(f"/nothing/{k}")
        used.client.get(f"/cam/{k}")
        used.client.post(f"/predict?model=m{k}", content=PHOTO)
        used.client.post(f"/predict?model={MODEL}&version={k + 2}", content=PHOTO)
        used.client.request(f"X{k}", "/predict")
    after = scraped(used.client)
    added = [one for one in after.labels("requests_total") if one not in before.labels("requests_total")]
    assert {(one["endpoint"], one["model"], one["version"]) for one in added} <= {
        ("/predict", "", ""),
        ("other", "", ""),
    }
    assert len(added) <= 2
    paths = used.client.get("/openapi.json").json()["paths"].keys() | {"/openapi.json", "other"}
    assert {one["endpoint"] for one in after.labels("requests_total")} <= paths


def test_idle_nothing_is_in_flight_but_what_asks(used: Server) -> None:
    assert scraped(used.client)("requests_in_flight") == 0


def test_a_flood_is_seen(start: Callable[..., Server], bundles: Path) -> None:
    """While it lasts in the depth of the queue, afterwards in what was refused and how long the others waited."""
    server = start(bundles, PERCEPT_MAX_QUEUE="4", PERCEPT_THREADS="1")

    async def flood() -> tuple[list[httpx.Response], list[Numbers]]:
        seen = []
        async with httpx.AsyncClient(base_url=server.client.base_url, timeout=60) as http:
            tasks = [asyncio.create_task(http.post(f"/predict?model={MODEL}", content=LARGE)) for _ in range(24)]
            while not all(task.done() for task in tasks):
                seen.append(Numbers((await http.get("/metrics")).text))
            return [task.result() for task in tasks], seen

    answers, seen = asyncio.run(flood())
    labels = {"model": MODEL, "version": "1"}
    refused = sum(answer.status_code == 429 for answer in answers)
    served = sum(answer.status_code == 200 for answer in answers)
    assert refused
    assert refused + served == 24
    depths = [numbers("queue_depth", **labels) for numbers in seen]
    assert 1 <= max(depths) <= seen[0]("queue_capacity", **labels) == 4
    assert max(numbers("requests_in_flight") for numbers in seen) >= 2
    after = scraped(server.client)
    assert after("queue_depth", **labels) == after("requests_in_flight") == 0
    assert after("refusals_total", model=MODEL, reason="queue_full") == refused
    assert after("requests_total", endpoint="/predict", code="429", **labels) == refused
    assert after("queue_wait_seconds_count", **labels) == served
    decoding = after("stage_duration_seconds_sum", endpoint="/predict", model=MODEL, stage="decode")
    assert after("queue_wait_seconds_sum", **labels) > decoding / served  # one thread: the others waited for the first


def test_who_takes_too_long_is_counted(start: Callable[..., Server], bundles: Path) -> None:
    server = start(bundles, PERCEPT_DEADLINE_S="0.001")
    assert server.client.post(f"/predict?model={MODEL}", content=LARGE).status_code == 504
    numbers = scraped(server.client)
    assert numbers("refusals_total", model=MODEL, reason="deadline_exceeded") == 1
    assert numbers("requests_total", endpoint="/predict", model=MODEL, version="1", code="504") == 1


def test_every_image_of_a_request_that_is_refused_is_counted(start: Callable[..., Server], bundles: Path) -> None:
    server = start(bundles, PERCEPT_DEADLINE_S="0.001")
    files = [("image", (f"{k}.png", LARGE)) for k in range(3)]
    answer = server.client.post(f"/predict?model={MODEL}", files=files)
    assert [one["code"] for one in answer.json()["results"]] == ["deadline_exceeded"] * 3
    assert all("instance" not in one for one in answer.json()["results"])
    assert scraped(server.client)("refusals_total", model=MODEL, reason="deadline_exceeded") == 3


def test_what_is_asked_for_too_early_is_counted_but_not_who_asks_whether_it_is(
    start: Callable[..., Server], tmp_path: Path
) -> None:
    client = start(tmp_path, wait=False).client
    for _ in range(3):
        assert client.get("/health/ready").status_code == 503
    assert client.post("/predict", content=PHOTO).status_code == 503
    numbers = scraped(client)
    assert numbers("refusals_total", model="", reason="not_ready") == 1
    assert numbers("ready") == 0
    assert numbers.labels("model_info") == []


def test_a_client_that_went_away_is_counted(bundles: Path) -> None:
    async def forever(*_: object) -> None:
        await asyncio.sleep(60)

    sent = [{"type": "http.request", "body": PHOTO, "more_body": False}]

    async def receive() -> dict[str, Any]:
        return sent.pop() if sent else {"type": "http.disconnect"}

    async def send(_: object) -> None:
        pass

    async def run() -> Numbers:
        app = create_app(Settings(models=bundles, device="cpu"))
        async with app.router.lifespan_context(app):
            while not app.state.percept.repository.models:
                await asyncio.sleep(0.05)
            app.state.percept.pipeline.predict = forever
            query = f"model={MODEL}".encode()
            scope = {"type": "http", "method": "POST", "path": "/predict", "query_string": query, "headers": []}
            await asyncio.wait_for(app(scope, receive, send), 20)
            return Numbers(app.state.percept.metrics.text()[0].decode())

    numbers = asyncio.run(run())
    assert numbers("refusals_total", model=MODEL, reason="abandoned") == 1
    assert numbers("requests_total", endpoint="/predict", model=MODEL, version="1", code="499") == 1


def test_two_applications_count_for_themselves(bundles: Path) -> None:
    settings = Settings(models=bundles, device="cpu")
    with TestClient(create_app(settings)) as one, TestClient(create_app(settings)) as other:
        one.get("/models")
        labels = {"endpoint": "/models", "model": "", "version": ""}
        assert any(one["endpoint"] == "/models" for one in Numbers(one.get("/metrics").text).labels("requests_total"))
        assert Numbers(other.get("/metrics").text)("requests_total", code="200", **labels) is None


@pytest.mark.parametrize("there", [True, False])
def test_the_memory_of_gpus_is_told_where_it_can_be_read(bundles: Path, monkeypatch, there: bool) -> None:
    """NVML's names and structures are its own; what a real GPU says was not seen."""
    if there:
        for name, answer in {"Init": None, "DeviceGetCount": 1, "DeviceGetHandleByIndex": 0}.items():
            monkeypatch.setattr(pynvml, f"nvml{name}", lambda *_, answer=answer: answer)
        memory = pynvml.c_nvmlMemory_t(total=80, free=50, used=30)
        monkeypatch.setattr(pynvml, "nvmlDeviceGetMemoryInfo", lambda _: memory)
    else:
        monkeypatch.setitem(sys.modules, "pynvml", None)
    app = create_app(Settings(models=bundles, device="cpu"))
    state = app.state.percept
    assert not any("gpu" in family.name for family in Gauges(state).collect())
    state.repository.plan = replace(state.repository.plan, device="cuda")
    samples = {s.name: (s.labels, s.value) for family in Gauges(state).collect() for s in family.samples}
    assert "percept_ready" in samples
    found = {name: value for name, value in samples.items() if "gpu" in name}
    told = {"percept_gpu_memory_used_bytes": ({"gpu": "0"}, 30), "percept_gpu_memory_total_bytes": ({"gpu": "0"}, 80)}
    assert found == (told if there else {})


def test_open_metrics_is_spoken_with_who_asks_for_it(used: Server) -> None:
    answer = used.client.get("/metrics", headers={"accept": OPEN})
    assert answer.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    assert answer.text.endswith("# EOF\n")
    names = {family.name for family in open_families(answer.text)}
    assert {name.removesuffix("_total") for name in CONTRACT} <= names
    plain = used.client.get("/metrics")
    assert plain.headers["content-type"].startswith("text/plain; version=0.0.4")


def test_promtool_finds_nothing_to_mend(used: Server) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("no promtool: it comes with Prometheus")
    text = used.client.get("/metrics").content
    found = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True)
    assert (found.returncode, found.stdout, found.stderr) == (0, b"", b"")
