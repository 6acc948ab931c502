"""Networks whose values are NaN or infinite for one image get one problem from every endpoint, and no result."""

import base64
import json
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from percept.explain.methods.table import METHODS
from tests.bundles import create_bundle, make_not_finite
from tests.conftest import Server
from tests.photos import encode_photo

RED = encode_photo(Image.new("RGB", (64, 48), (255, 0, 0)))
GREY = encode_photo(Image.new("RGB", (64, 48), (128, 128, 128)))
VALUES = ("nan", "inf")
# What is not finite → the graph, the tensor, and the tensor above 0.7 that makes it so.
CASES = {
    "logits": ("trunk.onnx", "logits", "logits"),
    "activations": ("trunk.onnx", "colour", "colour"),
    "gradients": ("tail.colour.onnx", "gradients", "activations"),
}
AT_LAYERS = [name for name, method in METHODS.items() if not method.needs_varying_gradients]
WITH_GRADIENTS = ["gradcam", "gradcam++", "xgradcam", "hirescam", "layercam", "eigengradcam"]


@pytest.fixture(scope="module")
def broken(start: Callable[..., Server], tmp_path_factory: pytest.TempPathFactory) -> httpx.Client:
    """The client of a server of networks that are not finite for red images."""
    root = tmp_path_factory.mktemp("broken")
    for value in VALUES:
        for name, change in CASES.items():
            make_not_finite(create_bundle(root, f"{name}-{value}"), *change, value)
        make_not_finite(create_bundle(root, f"mask-{value}", task="segmentation"), *CASES["logits"], value)
    return start(root, PERCEPT_DEFAULT_MODEL="logits-nan").client


def infer(client: httpx.Client, model: str, output: str, **parameters: Any) -> httpx.Response:
    data = [base64.b64encode(RED).decode()]
    body = {
        "inputs": [{"name": "image", "shape": [1], "datatype": "BYTES", "data": data}],
        "outputs": [{"name": output, "parameters": parameters}],
    }
    return client.post(f"/v2/models/{model}/infer", json=body)


def assert_not_finite(response: httpx.Response, what: str, model: str) -> None:
    problem = response.json()
    assert (response.status_code, problem.get("code")) == (422, "network_not_finite"), problem
    assert problem["detail"].startswith(f"the {what} of model {model!r} are not finite for this image: check "), problem


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize(
    ("path", "model"),
    [
        ("/predict?", "logits"),
        ("/predict?", "mask"),
        ("/predict?format=png", "mask"),
        ("/cam?", "logits"),
        ("/cam?format=json", "mask"),
        ("/cam?format=zip", "mask"),
        ("/cam?faithfulness=true", "logits"),
    ],
)
def test_logits_give_no_result(broken: httpx.Client, path: str, model: str, value: str) -> None:
    response = broken.post(f"{path}&model={model}-{value}", content=RED)
    assert_not_finite(response, "logits", f"{model}-{value}")


def test_finite_image_is_answered_by_the_same_network(broken: httpx.Client) -> None:
    response = broken.post("/predict?model=logits-inf", content=GREY)
    assert len(response.json()["predictions"]) == 3


def test_one_image_of_several_gets_the_problem(broken: httpx.Client) -> None:
    files = [("a", ("a", RED)), ("b", ("b", GREY))]
    first, second = broken.post("/predict?model=logits-inf", files=files).json()["results"]
    assert first["code"] == "network_not_finite"
    assert len(second["predictions"]) == 3


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("method", AT_LAYERS)
def test_activations_give_no_map(broken: httpx.Client, method: str, value: str) -> None:
    model = f"activations-{value}"
    response = broken.post("/cam", params={"model": model, "method": method}, content=RED)
    assert_not_finite(response, "activations of layer 'colour'", model)


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("method", WITH_GRADIENTS)
def test_gradients_give_no_map(broken: httpx.Client, method: str, value: str) -> None:
    model = f"gradients-{value}"
    response = broken.post("/cam", params={"model": model, "method": method}, content=RED)
    assert_not_finite(response, "logits or gradients after layer 'colour'", model)


@pytest.mark.parametrize(
    "query", ["", "&pool=avg", "&pool=max&format=npy", "&view=grid", "&view=components", "&view=channel&channel=0"]
)
def test_activations_give_no_features(broken: httpx.Client, query: str) -> None:
    for value in VALUES:
        response = broken.post(f"/features?model=activations-{value}&layer=colour{query}", content=RED)
        assert_not_finite(response, "activations of layer 'colour'", f"activations-{value}")


def test_arrays_of_features_are_returned_as_they_are(broken: httpx.Client) -> None:
    response = broken.post("/features?model=activations-inf&layer=colour&format=npy", content=RED)
    array = np.frombuffer(response.content[-4 * 3 * 8 * 8 :], "<f4")
    assert set(array.tolist()) == {np.inf, 0.0}


@pytest.mark.parametrize(("model", "output"), [("logits", "logits"), ("activations", "colour")])
def test_infer_returns_no_json_that_is_not_finite(broken: httpx.Client, model: str, output: str) -> None:
    for value in VALUES:
        assert_not_finite(infer(broken, f"{model}-{value}", output), f"output {output!r}", f"{model}-{value}")


def test_infer_returns_binary_logits_as_they_are(broken: httpx.Client) -> None:
    response = infer(broken, "logits-inf", "logits", binary_data=True)
    size = int(response.headers["inference-header-content-length"])
    assert json.loads(response.content[:size])["outputs"][0]["name"] == "logits"
    assert np.frombuffer(response.content[size:], "<f4").tolist() == [np.inf, 0, 0]


@pytest.mark.parametrize("parameters", [{}, {"binary_data": True}])
def test_infer_computes_nothing_from_values_that_are_not_finite(
    broken: httpx.Client, parameters: dict[str, Any]
) -> None:
    assert infer(broken, "logits-nan", "scores", **parameters).json()["code"] == "network_not_finite"
    assert infer(broken, "logits-nan", "cam", **parameters).json()["code"] == "network_not_finite"
    assert infer(broken, "gradients-nan", "cam", **parameters).json()["code"] == "network_not_finite"
    assert infer(broken, "logits-nan", "logits", classification=1).json()["code"] == "network_not_finite"
