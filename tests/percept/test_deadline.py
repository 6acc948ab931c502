"""The deadline and the place in the queue hold for all that a request costs, its rendering included."""

import base64
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.conftest import Server
from tests.percept.oip.triton import BLUE, RED
from tests.percept.slow_server import slow_encoding, slow_network
from tests.photos import draw_marker, encode_photo

DATA = encode_photo(draw_marker((60, 40), (20, 20), 9))
CLASSIFIER, SEGMENTER = "model=classification-squeeze", "model=segmentation-squeeze"
RENDERED = {
    "mask": f"/predict?{SEGMENTER}&view=mask",
    "mask overlay": f"/predict?{SEGMENTER}&view=overlay",
    "grid": f"/features?{CLASSIFIER}&layer=colour&view=grid",
    "overlay": f"/cam?{CLASSIFIER}",
    "sheet": f"/cam?{CLASSIFIER}&view=sheet&by=classes",
    "zip": f"/cam?{CLASSIFIER}&format=zip",
}
DEADLINE_S = 0.3
Start = Callable[..., Server]


@pytest.fixture(scope="module")
def slow_encoder(start: Start, bundles: Path, tmp_path_factory: pytest.TempPathFactory) -> httpx.Client:
    """A client of a server that takes 1 s to encode a picture, and has a deadline of 0.3 s."""
    environment = slow_encoding(tmp_path_factory.mktemp("patch"), 1)
    return start(bundles, PERCEPT_DEADLINE_S=str(DEADLINE_S), PERCEPT_THREADS="2", **environment).client


@pytest.mark.parametrize("path", RENDERED.values(), ids=RENDERED)
def test_rendering_ends_at_the_deadline(slow_encoder: httpx.Client, path: str) -> None:
    time.sleep(1)  # the threads have encoded the pictures of the test before
    start = time.perf_counter()
    response = slow_encoder.post(path, content=DATA)
    elapsed = time.perf_counter() - start
    assert (response.status_code, response.json()["code"]) == (504, "deadline_exceeded")
    assert DEADLINE_S <= elapsed < 0.9


def test_response_without_a_picture_meets_the_deadline(slow_encoder: httpx.Client) -> None:
    time.sleep(1)
    assert slow_encoder.post(f"/cam?{CLASSIFIER}&format=json", content=DATA).status_code == 200


def test_rendering_holds_its_place_in_the_queue(start: Start, bundles: Path, tmp_path: Path) -> None:
    """With one thread and one place to wait, a third request is refused while the first one renders."""
    limits = {"PERCEPT_THREADS": "1", "PERCEPT_MAX_QUEUE": "1"}
    client = start(bundles, **limits, **slow_encoding(tmp_path, 0.6)).client
    for name in ("mask", "grid", "overlay", "zip"):
        path = RENDERED[name]
        model = path.split("?")[1].split("&")[0]
        with ThreadPoolExecutor(2) as pool:
            admitted = [pool.submit(client.post, path, content=DATA) for _ in range(2)]
            time.sleep(0.3)
            refused = client.post(f"/predict?{model}", content=DATA)
            assert (refused.status_code, refused.json()["code"]) == (429, "queue_full"), path
            assert {one.result().status_code for one in admitted} == {200}, path


@pytest.fixture(scope="module")
def parallel(start: Start, bundles: Path, tmp_path_factory: pytest.TempPathFactory) -> httpx.Client:
    """A client of a server that runs four passes of 0.3 s at once."""
    return start(bundles, PERCEPT_THREADS="4", **slow_network(tmp_path_factory.mktemp("patch"), 0.3)).client


@pytest.fixture(scope="module")
def sequential(start: Start, bundles: Path, tmp_path_factory: pytest.TempPathFactory) -> httpx.Client:
    """A client of a server that runs one pass of 0.3 s after the other, and has a deadline of 0.8 s."""
    environment = slow_network(tmp_path_factory.mktemp("patch"), 0.3)
    return start(bundles, PERCEPT_THREADS="1", PERCEPT_DEADLINE_S="0.8", **environment).client


def post_files(client: httpx.Client, number: int) -> tuple[httpx.Response, float]:
    """Send several files to `/predict`; returns the response and the seconds that it took."""
    files = [("image", (f"{k}.png", DATA, "image/png")) for k in range(number)]
    start = time.perf_counter()
    return client.post(f"/predict?{CLASSIFIER}", files=files), time.perf_counter() - start


def test_images_of_one_request_run_concurrently(parallel: httpx.Client) -> None:
    response, elapsed = post_files(parallel, 4)
    assert ["predictions" in one for one in response.json()["results"]] == [True] * 4
    assert 0.3 <= elapsed < 1.1, "four passes of 0.3 s on four threads"


def test_late_images_of_a_request_are_problems_of_their_own(sequential: httpx.Client) -> None:
    response, elapsed = post_files(sequential, 4)
    assert response.status_code == 200
    results = response.json()["results"]
    assert ["predictions" in one for one in results] == [True, True, False, False]
    assert [one.get("code") for one in results] == [None, None, "deadline_exceeded", "deadline_exceeded"]
    assert 0.8 <= elapsed < 1.15, "the images share one deadline"


@pytest.mark.parametrize("query", ["", "&format=json"])
def test_broken_image_of_a_request_is_a_problem_of_its_own(client: httpx.Client, query: str) -> None:
    files = [("image", ("a.png", data, "image/png")) for data in (DATA, b"no image", DATA[:99])]
    results = client.post(f"/predict?{CLASSIFIER}{query}", files=files).json()["results"]
    assert [one.get("code") for one in results] == [None, "not_an_image", "broken_image"]


def infer_request(*images: bytes) -> dict[str, object]:
    """A request of the Open Inference Protocol with encoded images."""
    data = [base64.b64encode(image).decode() for image in images]
    return {"inputs": [{"name": "image", "shape": [len(images)], "datatype": "BYTES", "data": data}]}


def test_inference_of_several_images_runs_concurrently(parallel: httpx.Client) -> None:
    start = time.perf_counter()
    response = parallel.post("/v2/models/classification-squeeze/infer", json=infer_request(RED, BLUE, RED, BLUE))
    elapsed = time.perf_counter() - start
    assert response.json()["outputs"][0]["shape"] == [4, 3]
    assert 0.3 <= elapsed < 1.1


def test_inference_has_one_deadline_for_all_images(sequential: httpx.Client) -> None:
    start = time.perf_counter()
    response = sequential.post("/v2/models/classification-squeeze/infer", json=infer_request(RED, BLUE, RED, BLUE))
    elapsed = time.perf_counter() - start
    assert (response.status_code, response.json()["code"]) == (504, "deadline_exceeded")
    assert 0.8 <= elapsed < 1.15


def test_inference_of_two_broken_images_is_one_problem(start: Start, bundles: Path) -> None:
    server = start(bundles, PERCEPT_THREADS="2")
    path = "/v2/models/classification-squeeze/infer"
    for _ in range(5):
        response = server.client.post(path, json=infer_request(b"no image", b"none either"))
        assert (response.status_code, response.json()["code"]) == (415, "not_an_image")
        assert response.json()["detail"].startswith("image ")
    assert server.client.post(path, json=infer_request(RED)).status_code == 200
    assert not [line for line in server.log if "Traceback" in line or "never retrieved" in line]
