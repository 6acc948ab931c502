"""The probes: `/health/live` and `/health/ready`."""

import time
from pathlib import Path

import httpx

from tests.bundles import create_bundle


def test_server_is_live_and_ready(client: httpx.Client) -> None:
    assert client.get("/health/live").json()["status"] == "live"
    ready = client.get("/health/ready").json()
    assert ready["status"] == "ready"
    assert "segmentation-pad/1" in ready["models"]


def test_server_without_models_is_live_but_not_ready(start, tmp_path: Path) -> None:
    (create_bundle(tmp_path, "bad") / "golden.npz").unlink()
    client = start(tmp_path, wait=False).client
    for _ in range(100):
        ready = client.get("/health/ready")
        if "loaded" not in ready.text:
            break
        time.sleep(0.05)
    assert client.get("/health/live").status_code == 200
    assert (ready.status_code, ready.json()["code"]) == (503, "not_ready")
    assert "bad/1: golden.npz cannot be read" in ready.json()["detail"]
    assert ready.headers["retry-after"]
    assert client.post("/predict", content=b"x").status_code == 503
    assert client.get("/models").json()["models"] == []
    assert "golden.npz" in client.get("/models").json()["refused"]["bad/1"]
