"""The Open Inference Protocol through NVIDIA's own client, unmodified: `tritonclient[http]` against a real server."""

import base64
import io
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException

from tests.bundles import bundle
from tests.photos import encoded, marked

CLASSIFIER, SEGMENTER = "classification-squeeze", "segmentation-squeeze"
RED = encoded(marked((200, 160), (60, 60), 40), "JPEG")
BLUE = encoded(marked((90, 120), (40, 70), 30, (0, 0, 255)), "PNG")
LABELS = ["red", "green", "blue"]


def client_of(http: httpx.Client) -> InferenceServerClient:
    return InferenceServerClient(http.base_url.netloc.decode(), concurrency=4, network_timeout=60)


@pytest.fixture(scope="module")
def triton(client: httpx.Client) -> Iterator[InferenceServerClient]:
    """A Triton client of the marker bundles."""
    with client_of(client) as found:
        yield found


def files(*images: bytes, binary: bool = True, shape: Sequence[int] = ()) -> list[InferInput]:
    """The input `image`; in JSON its strings are base64."""
    values = images if binary else [base64.b64encode(image) for image in images]
    shaped = np.array(values, dtype=object).reshape(shape or (len(images), 1))
    return [InferInput("image", list(shaped.shape), "BYTES").set_data_from_numpy(shaped, binary_data=binary)]


def pixels(array: np.ndarray, binary: bool = True) -> list[InferInput]:
    return [InferInput("pixels", list(array.shape), "UINT8").set_data_from_numpy(array, binary_data=binary)]


def scores(http: httpx.Client, image: bytes, model: str = CLASSIFIER) -> list[float]:
    """What `/predict` says, in the order of the classes."""
    found = http.post("/predict", params={"model": model, "top_k": 3}, content=image).json()["predictions"]
    return [one["score"] for one in sorted(found, key=lambda one: one["index"])]


def array(http: httpx.Client, path: str, image: bytes, **query: str) -> np.ndarray:
    answer = http.post(path, params={"format": "npy", **query}, content=image)
    return np.load(io.BytesIO(answer.content))


def test_the_server_and_its_models_say_what_they_are(triton: InferenceServerClient) -> None:
    assert triton.is_server_live()
    assert triton.is_server_ready()
    about = triton.get_server_metadata()
    assert about["name"] == "percept"
    assert {"binary_tensor_data", "classification", "model_configuration", "model_repository"} == set(
        about["extensions"]
    )
    assert triton.is_model_ready(CLASSIFIER)
    assert triton.is_model_ready(CLASSIFIER, "1")
    assert not triton.is_model_ready(CLASSIFIER, "2")
    assert not triton.is_model_ready("nobody")
    found = triton.get_model_metadata(SEGMENTER, "1")
    assert (found["name"], found["versions"]) == (SEGMENTER, ["1"])
    assert found["inputs"] == [
        {"name": "pixels", "datatype": "UINT8", "shape": [-1, 64, 48, 3]},
        {"name": "image", "datatype": "BYTES", "shape": [-1, 1]},
    ]
    shapes = {one["name"]: (one["datatype"], one["shape"]) for one in found["outputs"]}
    assert shapes == {
        "scores": ("FP32", [-1, 4, 16, 12]),
        "logits": ("FP32", [-1, 4, 16, 12]),
        "colour": ("FP32", [-1, 3, 16, 12]),
        "cam": ("FP32", [-1, -1, -1]),
        "cam_target": ("INT64", [-1]),
    }


def test_the_configuration_says_the_same_in_words_of_triton(triton: InferenceServerClient) -> None:
    found, about = triton.get_model_config(CLASSIFIER, "1"), triton.get_model_metadata(CLASSIFIER)
    assert (found["name"], found["platform"], found["max_batch_size"]) == (CLASSIFIER, about["platform"], 4)
    for said, told in ((about["inputs"], found["input"]), (about["outputs"], found["output"])):
        assert [one["name"] for one in said] == [one["name"] for one in told]
        assert [one["shape"] for one in said] == [[-1, *one["dims"]] for one in told]
    assert {one["name"]: (one["data_type"], one["optional"]) for one in found["input"]} == {
        "pixels": ("TYPE_UINT8", True),
        "image": ("TYPE_STRING", True),
    }


def test_every_output_has_the_shape_that_the_metadata_says(triton: InferenceServerClient) -> None:
    said = triton.get_model_metadata(SEGMENTER)["outputs"]
    found = triton.infer(SEGMENTER, files(RED, RED), outputs=[InferRequestedOutput(one["name"]) for one in said])
    for one in said:
        values = found.as_numpy(one["name"])
        assert found.get_output(one["name"])["datatype"] == one["datatype"]
        assert all(size in (-1, there) for size, there in zip(one["shape"], values.shape, strict=True))
        assert len(values) == 2


@pytest.mark.parametrize("binary", [True, False])
def test_encoded_images_give_the_scores_of_predict(
    triton: InferenceServerClient, client: httpx.Client, binary: bool
) -> None:
    found = triton.infer(
        CLASSIFIER, files(RED, BLUE, binary=binary), outputs=[InferRequestedOutput("scores", binary_data=binary)]
    )
    expected = [scores(client, image) for image in (RED, BLUE)]
    np.testing.assert_allclose(found.as_numpy("scores"), expected, rtol=1e-6)
    assert [LABELS[k] for k in found.as_numpy("scores").argmax(1)] == ["red", "blue"]


def test_a_row_of_images_needs_no_second_dimension(triton: InferenceServerClient) -> None:
    row, column = (triton.infer(CLASSIFIER, files(RED, BLUE, shape=shape)) for shape in ((2,), (2, 1)))
    np.testing.assert_array_equal(row.as_numpy("scores"), column.as_numpy("scores"))


@pytest.mark.parametrize("binary", [True, False])
def test_pixels_are_what_the_network_takes(triton: InferenceServerClient, client: httpx.Client, binary: bool) -> None:
    batch = np.random.default_rng(0).integers(0, 256, (3, 64, 48, 3), np.uint8)
    found = triton.infer(CLASSIFIER, pixels(batch, binary)).as_numpy("scores")
    expected = [scores(client, encoded(Image.fromarray(one))) for one in batch]  # squeezed to the size that it has
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_layers_and_maps_are_those_of_the_other_endpoints(triton: InferenceServerClient, client: httpx.Client) -> None:
    wanted = [InferRequestedOutput("colour"), InferRequestedOutput("cam"), InferRequestedOutput("cam_target")]
    found = triton.infer(CLASSIFIER, files(RED, BLUE), outputs=wanted, parameters={"method": "layercam"})
    for row, image in enumerate((RED, BLUE)):
        layer = array(client, "/features", image, model=CLASSIFIER, layer="colour")
        np.testing.assert_allclose(found.as_numpy("colour")[row], layer, rtol=1e-6)
        cam = array(client, "/cam", image, model=CLASSIFIER, method="layercam")
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
def test_a_parameter_asks_for_a_map_as_cam_does(
    triton: InferenceServerClient, client: httpx.Client, parameters: dict[str, Any], query: dict[str, str]
) -> None:
    found = triton.infer(CLASSIFIER, files(RED), parameters=parameters)
    expected = array(client, "/cam", RED, model=CLASSIFIER, **query)
    np.testing.assert_allclose(found.as_numpy("cam")[0], expected, rtol=1e-6, atol=1e-9)
    assert found.as_numpy("scores").shape == (1, 3)


def test_an_output_may_say_what_it_is_about_itself(client: httpx.Client) -> None:
    asked = {
        "inputs": [{"name": "image", "shape": [1], "datatype": "BYTES", "data": [base64.b64encode(RED).decode()]}],
        "outputs": [{"name": "cam", "parameters": {"target": "green", "binary_data": False}}, {"name": "cam_target"}],
    }
    found = client.post(f"/v2/models/{CLASSIFIER}/infer", json=asked).json()["outputs"]
    assert [one["name"] for one in found] == ["cam", "cam_target"]
    assert found[1]["data"] == [1]


def test_a_map_of_a_segmenter_is_about_the_pixels_of_its_class(
    triton: InferenceServerClient, client: httpx.Client
) -> None:
    found = triton.infer(SEGMENTER, files(BLUE), parameters={"cam": True, "target": "blue"})
    expected = array(client, "/cam", BLUE, model=SEGMENTER, target="blue")
    np.testing.assert_allclose(found.as_numpy("cam")[0], expected, rtol=1e-6, atol=1e-9)
    with pytest.raises(InferenceServerException, match="no pixel of this image is predicted as 'green'"):
        triton.infer(SEGMENTER, files(BLUE), parameters={"cam": True, "target": "green"})


def test_classes_come_as_text_where_they_are_counted(triton: InferenceServerClient) -> None:
    wanted = [InferRequestedOutput("scores", class_count=2)]
    found = triton.infer(CLASSIFIER, files(RED, BLUE), outputs=wanted).as_numpy("scores")
    assert found.shape == (2, 2)
    score, index, label = found[1, 0].decode().split(":")
    assert (index, label) == ("2", "blue")
    assert 0 < float(score) <= 1


def test_a_request_gets_its_id_back_and_hints_are_passed_over(triton: InferenceServerClient) -> None:
    found = triton.infer(CLASSIFIER, files(RED), request_id="seven", priority=1, timeout=1000, model_version="1")
    answer = found.get_response()
    assert (answer["id"], answer["model_name"], answer["model_version"]) == ("seven", CLASSIFIER, "1")


def named(outputs: Sequence[str] = (), **parameters: Any) -> dict[str, Any]:
    return {"outputs": [InferRequestedOutput(name) for name in outputs] or None, "parameters": parameters or None}


@pytest.mark.parametrize(
    ("model", "inputs", "more", "status", "why"),
    [
        ("nobody", files(RED), {}, 404, "there is no model 'nobody'"),
        (CLASSIFIER, files(RED), {"model_version": "7"}, 404, "no version 7"),
        (CLASSIFIER, files(RED), named(["loss"]), 404, "no output 'loss'; it has scores, logits, colour, cam"),
        (CLASSIFIER, files(b"no image"), {}, 415, "the bytes are no image"),
        (CLASSIFIER, files(RED, RED[:200]), {}, 422, "image 1: "),
        (CLASSIFIER, files(*[RED] * 5), {}, 422, "there are 5 images; 1 to 4 are taken"),
        (CLASSIFIER, files(), {}, 422, "there are 0 images"),
        (CLASSIFIER, pixels(np.zeros((1, 9, 9, 3), np.uint8)), {}, 422, r"takes pixels of \[N, 64, 48, 3\]"),
        (CLASSIFIER, pixels(np.zeros((9, 9, 3), np.uint8)), {}, 422, "the input is either image"),
        (CLASSIFIER, [*files(RED), *pixels(np.zeros((1, 64, 48, 3), np.uint8))], {}, 422, "there is image, pixels"),
        (CLASSIFIER, files(RED), named(target="red"), 422, "target would do nothing: no cam"),
        (CLASSIFIER, files(RED), named(cam=True, colour="blue"), 422, "colour: Extra inputs.*it method, target"),
        (CLASSIFIER, files(RED), named(cam="nocam"), 422, "method: Input should be 'cam'"),
        (CLASSIFIER, files(RED), named(cam=True, target="cat"), 404, "no class 'cat'"),
        ("no-gradients", files(RED), named(["cam"]), 422, "no rule for Colour"),
        (CLASSIFIER, files(RED), {"request_compression_algorithm": "gzip"}, 415, "gzip is not read"),
        (SEGMENTER, files(RED), {"outputs": [InferRequestedOutput("scores", class_count=2)]}, 422, "of a classifier"),
    ],
)
def test_an_error_says_what_was_wrong(
    triton: InferenceServerClient,
    model: str,
    inputs: list[InferInput],
    more: dict[str, Any],
    status: int,
    why: str,
) -> None:
    with pytest.raises(InferenceServerException, match=why) as found:
        triton.infer(model, inputs, **more)
    assert found.value.status() == str(status)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v2/nowhere", 404),
        ("GET", f"/v2/models/{CLASSIFIER}/infer", 405),
        ("GET", f"/v2/models/{CLASSIFIER}/versions/new", 422),
        ("POST", f"/v2/models/{CLASSIFIER}/infer", 400),
        ("POST", f"/v2/repository/models/{CLASSIFIER}/load", 403),
        ("POST", f"/v2/repository/models/{CLASSIFIER}/unload", 403),
    ],
)
def test_every_failure_is_a_problem_with_the_error_of_the_protocol(
    client: httpx.Client, method: str, path: str, status: int
) -> None:
    answer = client.request(method, path)
    assert answer.status_code == status
    problem = answer.json()
    assert problem["error"] == problem["detail"] != ""
    assert problem["code"]


def test_json_is_bounded_and_binary_data_not_so_tightly(start: Callable[..., Any], bundles: Path) -> None:
    server = start(bundles, PERCEPT_MAX_IMAGE_BYTES="20000")
    batch = np.full((2, 64, 48, 3), 127, np.uint8)
    with client_of(server.client) as triton:
        assert triton.infer(CLASSIFIER, pixels(batch)).as_numpy("scores").shape == (2, 3)
        with pytest.raises(InferenceServerException, match="send binary tensor data") as found:
            triton.infer(CLASSIFIER, pixels(batch, binary=False))
    assert found.value.status() == "413"
    for said in ("many", "-1", "9" * 5000):
        length = {"Inference-Header-Content-Length": said}
        answer = server.client.post(f"/v2/models/{CLASSIFIER}/infer", content=b"{}", headers=length)
        assert answer.status_code == 400
        assert "is a number of bytes" in answer.json()["error"]


def test_a_full_queue_refuses_here_too(start: Callable[..., Any], bundles: Path) -> None:
    server = start(bundles, PERCEPT_MAX_QUEUE="1", PERCEPT_THREADS="1")
    large = encoded(marked((3000, 2000), (700, 700), 300), "PNG")
    image = {"name": "image", "shape": [1], "datatype": "BYTES", "data": [base64.b64encode(large).decode()]}
    with ThreadPoolExecutor(8) as pool:
        body = json.dumps({"inputs": [image]})
        found = list(pool.map(lambda _: server.client.post(f"/v2/models/{CLASSIFIER}/infer", content=body), range(16)))
    codes = {answer.status_code for answer in found}
    assert codes == {200, 429}
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in found if answer.status_code == 429)


@pytest.fixture
def governed(start: Callable[..., Any], tmp_path: Path) -> tuple[InferenceServerClient, Path, httpx.Client]:
    """A server whose models may be loaded and unloaded, and its repository."""
    bundle(tmp_path, "first")
    bundle(tmp_path, "second")
    server = start(tmp_path, PERCEPT_MODEL_CONTROL="explicit")
    return client_of(server.client), tmp_path, server.client


def states(triton: InferenceServerClient) -> dict[str, str]:
    return {f"{one['name']}/{one['version']}": one["state"] for one in triton.get_model_repository_index()}


def test_models_are_loaded_and_unloaded(governed: tuple[InferenceServerClient, Path, httpx.Client]) -> None:
    triton, root, http = governed
    assert states(triton) == {"first/1": "READY", "second/1": "READY"}
    kept = http.post("/predict?model=first", content=RED).json()["id"]
    triton.unload_model("first")
    assert states(triton) == {"first/1": "UNAVAILABLE", "second/1": "READY"}
    assert not triton.is_model_ready("first")
    assert http.get(f"/cam/{kept}").json()["code"] == "unknown_image"
    assert http.get("/models").json()["models"][0]["default"]  # the next classifier answers
    bundle(root, "first", version=2)
    bundle(root, "third")
    triton.load_model("first")
    assert triton.get_model_metadata("first")["versions"] == ["1", "2"]
    assert states(triton)["third/1"] == "UNAVAILABLE"
    assert triton.infer("first", files(RED)).get_response()["model_version"] == "2"
    ready = http.post("/v2/repository/index", json={"ready": True}).json()
    assert [one["name"] for one in ready] == ["first", "first", "second"]
    for act, name in ((triton.load_model, "nobody"), (triton.unload_model, "third"), (triton.load_model, "..")):
        with pytest.raises(InferenceServerException) as found:
            act(name)
        assert found.value.status() == "404"
    with pytest.raises(InferenceServerException, match=r"parameters\.config: Extra inputs"):
        triton.load_model("first", config="{}")


def test_a_half_written_version_changes_nothing(governed: tuple[InferenceServerClient, Path, httpx.Client]) -> None:
    triton, root, http = governed
    (bundle(root, "first", version=2) / "trunk.onnx").write_bytes(b"half")
    with (root / "first" / "1" / "trunk.onnx").open("ab") as file:
        file.write(b"!")
    with pytest.raises(InferenceServerException, match=r"first/1: trunk.onnx.*first/2: trunk.onnx") as found:
        triton.load_model("first")
    assert found.value.status() == "422"
    assert states(triton)["first/1"] == "READY"
    assert states(triton)["first/2"] == "UNAVAILABLE"
    assert set(http.get("/models").json()["refused"]) == {"first/1", "first/2"}
    assert triton.infer("first", files(RED)).get_response()["model_version"] == "1"


def test_nobody_notices_that_a_model_is_loaded(governed: tuple[InferenceServerClient, Path, httpx.Client]) -> None:
    """Requests go on while versions come and go, and none fails."""
    triton, root, http = governed
    seen: list[tuple[int, int]] = []
    over = False

    def ask() -> None:
        with httpx.Client(base_url=http.base_url, timeout=60) as own:
            while not over:
                answer = own.post("/predict?model=first", content=RED)
                seen.append((answer.status_code, answer.json()["model"]["version"]))

    with ThreadPoolExecutor(3) as pool:
        asking = [pool.submit(ask) for _ in range(3)]
        try:
            for version in (2, 3, 4):
                bundle(root, "first", version)
                triton.load_model("first")
                assert triton.infer("first", files(RED)).get_response()["model_version"] == str(version)
        finally:
            over = True
        for one in asking:
            one.result()
    assert {status for status, _ in seen} == {200}
    assert seen[-1][1] == 4
