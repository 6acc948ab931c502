"""Inference through NVIDIA's client from a real server: the same results as `/predict`, `/features` and `/cam`."""

import base64
import io
from collections.abc import Sequence
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException

from tests.percept.oip.triton import BLUE, CLASSIFIER, LABELS, RED, SEGMENTER, image_input, pixel_input
from tests.photos import encode_photo


def predict_scores(http: httpx.Client, image: bytes, model: str = CLASSIFIER) -> list[float]:
    """The scores of `/predict` in the order of the classes."""
    predictions = http.post("/predict", params={"model": model, "top_k": 3}, content=image).json()["predictions"]
    return [prediction["score"] for prediction in sorted(predictions, key=lambda prediction: prediction["index"])]


def post_for_array(http: httpx.Client, path: str, image: bytes, **query: str) -> np.ndarray:
    """The array that an endpoint responds with."""
    response = http.post(path, params={"format": "npy", **query}, content=image)
    return np.load(io.BytesIO(response.content))


def options(outputs: Sequence[str] = (), **parameters: Any) -> dict[str, Any]:
    """Arguments of `infer`: output names and parameters."""
    return {"outputs": [InferRequestedOutput(name) for name in outputs] or None, "parameters": parameters or None}


@pytest.mark.parametrize("binary", [True, False])
def test_images_give_the_scores_of_predict(triton: InferenceServerClient, client: httpx.Client, binary: bool) -> None:
    found = triton.infer(
        CLASSIFIER, image_input(RED, BLUE, binary=binary), outputs=[InferRequestedOutput("scores", binary_data=binary)]
    )
    expected = [predict_scores(client, image) for image in (RED, BLUE)]
    np.testing.assert_allclose(found.as_numpy("scores"), expected, rtol=1e-6)
    assert [LABELS[k] for k in found.as_numpy("scores").argmax(1)] == ["red", "blue"]


def test_images_may_have_one_dimension(triton: InferenceServerClient) -> None:
    row, column = (triton.infer(CLASSIFIER, image_input(RED, BLUE, shape=shape)) for shape in ((2,), (2, 1)))
    np.testing.assert_array_equal(row.as_numpy("scores"), column.as_numpy("scores"))


@pytest.mark.parametrize("binary", [True, False])
def test_pixels_are_passed_to_the_network(triton: InferenceServerClient, client: httpx.Client, binary: bool) -> None:
    batch = np.random.default_rng(0).integers(0, 256, (3, 64, 48, 3), np.uint8)
    found = triton.infer(CLASSIFIER, pixel_input(batch, binary)).as_numpy("scores")
    # The photos have the input size: `/predict` does not resize them.
    expected = [predict_scores(client, encode_photo(Image.fromarray(photo))) for photo in batch]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_layers_and_maps_equal_those_of_other_endpoints(triton: InferenceServerClient, client: httpx.Client) -> None:
    outputs = [InferRequestedOutput("colour"), InferRequestedOutput("cam"), InferRequestedOutput("cam_target")]
    found = triton.infer(CLASSIFIER, image_input(RED, BLUE), outputs=outputs, parameters={"method": "layercam"})
    for row, image in enumerate((RED, BLUE)):
        layer = post_for_array(client, "/features", image, model=CLASSIFIER, layer="colour")
        np.testing.assert_allclose(found.as_numpy("colour")[row], layer, rtol=1e-6)
        cam = post_for_array(client, "/cam", image, model=CLASSIFIER, method="layercam")
        np.testing.assert_allclose(found.as_numpy("cam")[row], cam, rtol=1e-6)
    assert found.as_numpy("cam_target").tolist() == [0, 2]
    assert found.get_output("cam")["parameters"]["method"] == "layercam"
    assert found.get_output("cam")["parameters"]["layer"] == "colour"


@pytest.mark.parametrize(
    ("parameters", "query"),
    [
        ({"cam": True}, {}),
        ({"cam": "hirescam"}, {"method": "hirescam"}),
        ({"cam": True, "target": "blue"}, {"target": "blue"}),
        ({"cam": True, "target": 2, "against": 0}, {"target": "2", "against": "0"}),
        ({"cam": True, "layer": "colour+colour"}, {"layer": "colour+colour"}),
        ({"cam": True, "scale": "unit"}, {"scale": "unit"}),
    ],
)
def test_parameters_request_the_map_of_cam(
    triton: InferenceServerClient, client: httpx.Client, parameters: dict[str, Any], query: dict[str, str]
) -> None:
    found = triton.infer(CLASSIFIER, image_input(RED), parameters=parameters)
    expected = post_for_array(client, "/cam", RED, model=CLASSIFIER, **query)
    np.testing.assert_allclose(found.as_numpy("cam")[0], expected, rtol=1e-6, atol=1e-9)
    assert found.as_numpy("scores").shape == (1, 3)


def test_output_parameters_apply_to_the_map(client: httpx.Client) -> None:
    request = {
        "inputs": [{"name": "image", "shape": [1], "datatype": "BYTES", "data": [base64.b64encode(RED).decode()]}],
        "outputs": [{"name": "cam", "parameters": {"target": "green", "binary_data": False}}, {"name": "cam_target"}],
    }
    found = client.post(f"/v2/models/{CLASSIFIER}/infer", json=request).json()["outputs"]
    assert [output["name"] for output in found] == ["cam", "cam_target"]
    assert found[1]["data"] == [1]


def test_segmentation_map_explains_the_pixels_of_a_class(triton: InferenceServerClient, client: httpx.Client) -> None:
    found = triton.infer(SEGMENTER, image_input(BLUE), parameters={"cam": True, "target": "blue"})
    expected = post_for_array(client, "/cam", BLUE, model=SEGMENTER, target="blue")
    np.testing.assert_allclose(found.as_numpy("cam")[0], expected, rtol=1e-6, atol=1e-9)
    with pytest.raises(InferenceServerException, match="no pixel of this image is predicted as 'green'"):
        triton.infer(SEGMENTER, image_input(BLUE), parameters={"cam": True, "target": "green"})


def test_class_count_returns_the_best_classes_as_text(triton: InferenceServerClient) -> None:
    outputs = [InferRequestedOutput("scores", class_count=2)]
    found = triton.infer(CLASSIFIER, image_input(RED, BLUE), outputs=outputs).as_numpy("scores")
    assert found.shape == (2, 2)
    score, index, label = found[1, 0].decode().split(":")
    assert (index, label) == ("2", "blue")
    assert 0 < float(score) <= 1


def test_request_id_is_returned_and_hints_are_ignored(triton: InferenceServerClient) -> None:
    found = triton.infer(CLASSIFIER, image_input(RED), request_id="seven", priority=1, timeout=1000, model_version="1")
    response = found.get_response()
    assert (response["id"], response["model_name"], response["model_version"]) == ("seven", CLASSIFIER, "1")


@pytest.mark.parametrize(
    ("model", "inputs", "arguments", "status", "reason"),
    [
        ("unknown", image_input(RED), {}, 404, "there is no model 'unknown'"),
        (CLASSIFIER, image_input(RED), {"model_version": "7"}, 404, "no version 7"),
        (CLASSIFIER, image_input(RED), options(["loss"]), 404, "no output 'loss'; it has scores, logits, colour, cam"),
        (CLASSIFIER, image_input(b"no image"), {}, 415, "the bytes are text; accepted formats"),
        (CLASSIFIER, image_input(RED, RED[:200]), {}, 422, "image 1: "),
        (CLASSIFIER, image_input(*[RED] * 5), {}, 422, "has 5 images; 1 to 4 are accepted"),
        (CLASSIFIER, image_input(), {}, 422, "has 0 images"),
        (CLASSIFIER, pixel_input(np.zeros((1, 9, 9, 3), np.uint8)), {}, 422, r"takes pixels of \[N, 64, 48, 3\]"),
        (CLASSIFIER, pixel_input(np.zeros((9, 9, 3), np.uint8)), {}, 422, "the input must be either image"),
        (
            CLASSIFIER,
            [*image_input(RED), *pixel_input(np.zeros((1, 64, 48, 3), np.uint8))],
            {},
            422,
            "the request has image, pixels",
        ),
        (CLASSIFIER, image_input(RED), options(target="red"), 422, "target would have no effect: no cam"),
        (
            CLASSIFIER,
            image_input(RED),
            options(cam=True, colour="blue"),
            422,
            "colour: unknown parameter.*map method, target",
        ),
        (CLASSIFIER, image_input(RED), options(cam="nocam"), 422, "method: Input should be 'cam'"),
        (CLASSIFIER, image_input(RED), options(cam=True, target="cat"), 404, "no class 'cat'"),
        ("no-gradients", image_input(RED), options(["cam"]), 422, "no rule for Colour"),
        (CLASSIFIER, image_input(RED), {"request_compression_algorithm": "gzip"}, 415, "gzip is not supported"),
        (
            SEGMENTER,
            image_input(RED),
            {"outputs": [InferRequestedOutput("scores", class_count=2)]},
            422,
            "of a classifier",
        ),
    ],
)
def test_error_names_the_reason(
    triton: InferenceServerClient,
    model: str,
    inputs: list[InferInput],
    arguments: dict[str, Any],
    status: int,
    reason: str,
) -> None:
    with pytest.raises(InferenceServerException, match=reason) as raised:
        triton.infer(model, inputs, **arguments)
    assert raised.value.status() == str(status)
