"""The gauges show the state of the models, the image cache and the GPU at the moment of the scrape."""

import re
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pynvml
import pytest

from percept.server.app import create_app
from percept.server.collectors import ServiceCollector
from percept.settings import Settings
from tests.conftest import Server
from tests.percept.scrape import scrape
from tests.photos import draw_marker, encode_photo

PHOTO = encode_photo(draw_marker((640, 480), (200, 200), 60), "JPEG")
MODEL = "classification-squeeze"


def test_models_and_image_cache_are_measured(start: Callable[..., Server], bundles: Path) -> None:
    client = start(bundles).client
    for _ in range(4):
        id = client.post(f"/predict?model={MODEL}", content=PHOTO).json()["id"]
    assert client.get(f"/cam/{id}").status_code == 200
    for path in ("/cam/unknown", "/features/unknown"):
        assert client.get(path).status_code == 404
    metrics, now = scrape(client), time.time()
    assert metrics.value("ready") == 1
    assert metrics.value("bundles_refused") == 0
    assert metrics.value("model_info", model=MODEL, version="1", task="classification", precision="float32") == 1
    assert 0 < metrics.value("model_load_duration_seconds", model=MODEL, version="1") < 60
    assert now - 600 < metrics.value("model_loaded_timestamp_seconds", model=MODEL, version="1") <= now
    assert metrics.value("store_images") == 4
    assert metrics.value("store_bytes") > 4 * len(PHOTO)
    assert metrics.value("store_lookups_total", result="hit") == 1
    assert metrics.value("store_lookups_total", result="miss") == 2
    (build,) = metrics.labels("build_info")
    assert build["device"] == "cpu"
    assert re.match(r"\d+\.\d+", build["onnxruntime"])


@pytest.mark.parametrize("available", [True, False])
def test_gpu_memory_is_shown_where_nvml_works(bundles: Path, monkeypatch: pytest.MonkeyPatch, available: bool) -> None:
    """The functions and structures are NVML's own; the numbers are invented, since this machine may have no GPU."""
    if available:
        for name, result in {"Init": None, "DeviceGetCount": 1, "DeviceGetHandleByIndex": 0}.items():
            monkeypatch.setattr(pynvml, f"nvml{name}", lambda *_, result=result: result)
        memory = pynvml.c_nvmlMemory_t(total=80, free=50, used=30)
        monkeypatch.setattr(pynvml, "nvmlDeviceGetMemoryInfo", lambda _: memory)
    else:
        monkeypatch.setitem(sys.modules, "pynvml", None)
    state = create_app(Settings(models=bundles, device="cpu")).state.percept
    assert not any("gpu" in family.name for family in ServiceCollector(state).collect())
    state.repository.plan = replace(state.repository.plan, device="cuda")
    samples = {s.name: (s.labels, s.value) for family in ServiceCollector(state).collect() for s in family.samples}
    assert "percept_ready" in samples
    gpu = {name: sample for name, sample in samples.items() if "gpu" in name}
    used, total = ({"gpu": "0"}, 30), ({"gpu": "0"}, 80)
    expected = {"percept_gpu_memory_used_bytes": used, "percept_gpu_memory_total_bytes": total}
    assert gpu == (expected if available else {})
