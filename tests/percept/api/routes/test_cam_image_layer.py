"""`/cam?layer=image`: maps at the pixels of the built-in models' input."""

from collections.abc import Callable
from io import BytesIO
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from percept.explain.methods.table import METHODS
from tests.photos import draw_marker, encode_photo

DATA = encode_photo(draw_marker((60, 90), (20, 30), 14))
IMAGE_METHODS = [name for name, method in METHODS.items() if method.at_image]


@pytest.fixture(scope="module")
def builtin(start: Callable[..., Any]) -> httpx.Client:
    """A client of a server with the built-in models."""
    return start().client


def map_of(client: httpx.Client, **query: str) -> np.ndarray:
    response = client.post("/cam", params={"layer": "image", "format": "npy", **query}, content=DATA)
    assert response.status_code == 200, response.text
    return np.load(BytesIO(response.content))


@pytest.mark.parametrize("method", IMAGE_METHODS)
@pytest.mark.parametrize(("model", "shape"), [("cifar10", (32, 32)), ("clothing", (384, 256))])
def test_methods_for_the_image_give_maps_of_its_pixels(
    builtin: httpx.Client, method: str, model: str, shape: tuple[int, int]
) -> None:
    if (model, method) in {("clothing", "rise"), ("clothing", "smoothgrad")}:
        pytest.skip("takes seconds and proves nothing more than the others")
    found = map_of(builtin, model=model, method=method)
    assert found.shape == shape
    assert np.isfinite(found).all()
    assert found.any()


def test_methods_that_weigh_features_are_rejected(builtin: httpx.Client) -> None:
    layers = {layer["name"]: layer for layer in builtin.get("/models/cifar10").json()["layers"]}
    assert layers["image"]["methods"] == IMAGE_METHODS
    assert set(layers["image"]["unavailable_methods"]) == set(METHODS) - set(IMAGE_METHODS)
    response = builtin.post("/cam?layer=image&model=cifar10", content=DATA)
    assert (response.status_code, response.json()["code"]) == (422, "method_unavailable")
    assert "saliency" in response.json()["detail"]


def test_contact_sheet_shows_the_methods_for_the_image(builtin: httpx.Client) -> None:
    response = builtin.post("/cam?layer=image&model=cifar10&view=sheet&by=methods", content=DATA)
    assert Image.open(BytesIO(response.content)).width > 2 * 60
