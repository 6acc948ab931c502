"""`/features?view=effective`: the effective receptive field of the cell at a point."""

from collections.abc import Callable
from io import BytesIO
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.photos import draw_marker, encode_photo

DATA = encode_photo(draw_marker((90, 120), (30, 40), 20))
PLACE = {"x": "45", "y": "60"}


@pytest.fixture(scope="module")
def builtin(start: Callable[..., Any]) -> httpx.Client:
    """A client of a server with the built-in models."""
    return start().client


def test_effective_field_lies_in_the_theoretical_one(builtin: httpx.Client) -> None:
    query = {"model": "clothing", "layer": "stage2", "view": "effective", **PLACE}
    field = builtin.post("/features", params=query | {"format": "json"}, content=DATA).json()["field"]
    effective = field["effective"]
    assert field["left"] <= effective["left"] < 45 < effective["right"] <= field["right"]
    assert field["top"] <= effective["top"] < 60 < effective["bottom"] <= field["bottom"]
    plain = builtin.post("/features", params=query | {"view": "field", "format": "json"}, content=DATA).json()
    assert "effective" not in plain["field"]
    array = np.load(BytesIO(builtin.post("/features", params=query | {"format": "npy"}, content=DATA).content))
    assert array.shape == (384, 256)
    assert array.min() >= 0


@pytest.mark.parametrize("name", ["jpeg", "png", "webp"])
def test_effective_field_is_drawn_for_new_and_cached_images(builtin: httpx.Client, name: str) -> None:
    query = {"layer": "stage1", "view": "effective", "format": name, **PLACE}
    drawn = builtin.post("/features", params={"model": "cifar10", **query}, content=DATA)
    assert Image.open(BytesIO(drawn.content)).size == (90, 120)
    id = builtin.post("/predict?model=cifar10", content=DATA).json()["id"]
    assert builtin.get(f"/features/{id}", params=query).content == drawn.content


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("layer=stage1&view=effective", "bad_parameter"),
        ("layer=stage1&view=effective&x=3", "bad_parameter"),
        ("layer=stage1&view=effective&x=3&y=1000", "bad_parameter"),
        ("layer=stage1&view=effective&x=3&y=3&pool=avg", "bad_parameter"),
        ("layer=image&view=effective&x=3&y=3", "method_unavailable"),
        ("layer=nothing&view=effective&x=3&y=3", "unknown_layer"),
    ],
)
def test_invalid_requests_are_rejected(builtin: httpx.Client, query: str, code: str) -> None:
    response = builtin.post(f"/features?model=cifar10&{query}", content=DATA)
    assert response.json()["code"] == code, response.text


def test_bundle_without_image_layer_is_rejected(client: httpx.Client) -> None:
    query = "/features?model=classification-squeeze&layer=colour&view=effective&x=3&y=3"
    response = client.post(query, content=DATA)
    assert (response.status_code, response.json()["code"]) == (422, "gradients_unavailable")
    assert "export the model again" in response.json()["detail"]
