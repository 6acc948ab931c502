"""`/models`: the list of models with the default, and the description of one."""

from pathlib import Path

import httpx
import pytest

from tests.photos import draw_marker, encode_photo


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


def test_unknown_parameter_of_a_model_is_rejected(client: httpx.Client) -> None:
    assert client.get("/models/segmentation-crop?version=1").json()["version"] == 1
    response = client.get("/models/segmentation-crop?verison=1")
    assert response.status_code == 422
    assert response.json()["detail"] == "verison: unknown parameter; did you mean version?"


@pytest.mark.parametrize(
    ("path", "suggestion"),
    [
        ("/models/Segmentation-Crop", "did you mean segmentation-crop?"),
        ("/predict?model=segmentation_crop", "did you mean segmentation-crop"),
        ("/cam?model=classification-crop&layer=color", "did you mean colour?"),
        ("/cam?model=classification-crop&target=gren", "did you mean green?"),
        ("/cam?method=grad_cam_plus", "did you mean gradcam"),
        ("/cam?format=jpg", "did you mean jpeg"),
        ("/features?layr=colour", "layr: unknown parameter; did you mean layer"),
    ],
)
def test_unknown_name_gets_a_suggestion(client: httpx.Client, path: str, suggestion: str) -> None:
    response = client.request("GET" if path.startswith("/models") else "POST", path)
    assert response.status_code in (404, 422)
    assert suggestion in response.json()["detail"]


@pytest.mark.parametrize("target", ["RED", "Red", " red", "r_e_d"])
def test_label_is_found_whatever_its_case_and_spaces(client: httpx.Client, target: str) -> None:
    image = encode_photo(draw_marker((64, 48), (20, 20), 9))
    response = client.post("/cam?format=json", params={"target": target, "format": "json"}, content=image)
    assert response.json()["target"]["label"] == "red"
