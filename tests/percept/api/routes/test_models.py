"""`/models`: the list of models with the default, and the description of one."""

from pathlib import Path

import httpx


def test_models_are_listed_with_the_default(client: httpx.Client) -> None:
    response = client.get("/models").json()
    names = [model["name"] for model in response["models"]]
    assert names == sorted(names)
    assert [model["name"] for model in response["models"] if model["default"]] == ["classification-crop"]
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
