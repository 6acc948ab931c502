"""Live, ready, and what is served."""

import re
import time
from pathlib import Path

import httpx

from tests.bundles import bundle


def test_live_and_ready(client: httpx.Client) -> None:
    assert client.get("/health/live").json()["status"] == "live"
    ready = client.get("/health/ready").json()
    assert ready["status"] == "ready"
    assert "segmentation-pad/1" in ready["models"]


def test_nothing_to_serve_is_live_but_not_ready_and_says_why(start, tmp_path: Path) -> None:
    (bundle(tmp_path, "bad") / "golden.npz").unlink()
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


def test_the_models_are_listed_with_the_default(client: httpx.Client) -> None:
    answer = client.get("/models").json()
    names = [m["name"] for m in answer["models"]]
    assert names == sorted(names)
    assert [m["name"] for m in answer["models"] if m["default"]] == ["classification-crop"]
    assert client.post("/features").json()["model"]["name"] == "classification-crop"


def test_the_default_is_a_setting(start, bundles: Path) -> None:
    client = start(bundles, PERCEPT_DEFAULT_MODEL="segmentation-pad").client
    assert client.post("/features").json()["model"]["name"] == "segmentation-pad"


def test_a_model_tells_all_that_is_known_of_it(client: httpx.Client) -> None:
    answer = client.get("/models/segmentation-crop").json()
    assert answer["labels"] == ["ground", "red", "green", "blue"]
    assert answer["preprocessing"]["short_side"] == 72
    assert answer["layers"][0]["shape"] == [3, 16, 12]
    assert answer["provenance"]["license"] == "Apache-2.0"


def test_the_documentation_describes_every_endpoint_with_examples(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    for path in ("/predict", "/features", "/cam"):
        post = document["paths"][path]["post"]
        assert {"200", "404", "413", "415", "422", "429", "503"} <= set(post["responses"])
        assert post["requestBody"]["content"]["application/json"]["example"]
        assert all("description" in p or p["schema"].get("default") for p in post["parameters"])


def test_the_documentation_page_needs_nothing_from_elsewhere(client: httpx.Client) -> None:
    page = client.get("/docs")
    assert page.status_code == 200
    sources = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(sources) >= 3
    for source in sources:
        assert source.startswith("/"), source
        assert client.get(source).status_code == 200
