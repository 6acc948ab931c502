"""The probes, the list and description of models, and the OpenAPI document."""

import re
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


def test_models_are_listed_with_the_default(client: httpx.Client) -> None:
    response = client.get("/models").json()
    names = [m["name"] for m in response["models"]]
    assert names == sorted(names)
    assert [m["name"] for m in response["models"] if m["default"]] == ["classification-crop"]
    assert client.post("/features").json()["model"]["name"] == "classification-crop"


def test_default_model_is_a_setting(start, bundles: Path) -> None:
    client = start(bundles, PERCEPT_DEFAULT_MODEL="segmentation-pad").client
    assert client.post("/features").json()["model"]["name"] == "segmentation-pad"


def test_model_is_described(client: httpx.Client) -> None:
    response = client.get("/models/segmentation-crop").json()
    assert response["labels"] == ["ground", "red", "green", "blue"]
    assert response["preprocessing"]["short_side"] == 72
    assert response["layers"][0]["shape"] == [3, 16, 12]
    assert response["provenance"]["license"] == "Apache-2.0"


def test_openapi_describes_every_endpoint_with_examples(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    for path in ("/predict", "/features", "/cam"):
        post = document["paths"][path]["post"]
        assert {"200", "404", "413", "415", "422", "429", "503"} <= set(post["responses"])
        assert post["requestBody"]["content"]["application/json"]["example"]
        assert all("description" in p or p["schema"].get("default") for p in post["parameters"])


def test_documentation_page_loads_no_external_files(client: httpx.Client) -> None:
    page = client.get("/docs")
    assert page.status_code == 200
    sources = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(sources) >= 3
    for source in sources:
        assert source.startswith("/"), source
        assert client.get(source).status_code == 200
