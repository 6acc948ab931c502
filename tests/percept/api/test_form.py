"""Multipart forms: image parts are the images of a request, all other parts its parameters, as in the query."""

import time
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from fastapi.testclient import TestClient

from percept.api.cam_params import CamRequestParams
from percept.api.features_params import FeaturesRequestParams
from percept.api.form import MAX_FIELD_BYTES, MAX_FIELDS
from percept.api.params import ModelParams
from percept.api.predict_params import PredictParams
from percept.server.app import create_app
from percept.settings import Settings
from tests.photos import draw_marker, encode_photo

PHOTO = encode_photo(draw_marker((60, 40), (20, 20), 10))
FILE = {"image": ("photo.png", PHOTO, "image/png")}
SEGMENTER = {"model": "segmentation-squeeze"}
PARAMS = {"/predict": PredictParams, "/features": FeaturesRequestParams, "/cam": CamRequestParams}
END = b"--x--\r\n"
DISPOSITION = b"Content-Disposition: form-data; "


def problem_of(response: httpx.Response) -> tuple[int, str, str]:
    problem = response.json()
    return response.status_code, problem.get("code", ""), problem.get("detail", "")


def post_parts(
    client: httpx.Client, *parts: bytes, end: bytes = b"--x--\r\n", path: str = "/predict"
) -> httpx.Response:
    """Post parts that are given with their headers."""
    body = b"".join(b"--x\r\n" + part + b"\r\n" for part in parts) + end
    return client.post(path, content=body, headers={"content-type": "multipart/form-data; boundary=x"})


def test_field_chooses_the_model(client: httpx.Client) -> None:
    assert client.post("/predict", files=FILE).json()["model"]["name"] != SEGMENTER["model"]
    response = client.post("/predict", files=FILE, data=SEGMENTER)
    assert response.json()["model"]["name"] == SEGMENTER["model"]


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/predict", {"top_k": "2"}),
        ("/predict", {**SEGMENTER, "view": "overlay", "alpha": "0.3"}),
        ("/features", {"layer": "colour", "pool": "max"}),
        ("/features", {"layer": "colour", "format": "npy"}),
        ("/features", SEGMENTER),
        ("/cam", {"target": ["red", "blue"], "format": "npy"}),
        ("/cam", {"method": "layercam", "legend": "true", "alpha": "0.5"}),
        ("/cam", {**SEGMENTER, "x": "20", "y": "20", "format": "npy", "size": "photo"}),
    ],
)
def test_fields_mean_the_same_as_the_query(client: httpx.Client, path: str, fields: dict[str, str]) -> None:
    def without_id(response: httpx.Response) -> object:
        is_json = response.headers["content-type"] == "application/json"
        return {**response.json(), "id": ""} if is_json else response.content

    by_query = client.post(path, files=FILE, params=fields)
    by_form = client.post(path, files=FILE, data=fields)
    assert by_query.status_code == by_form.status_code == 200
    assert without_id(by_form) == without_id(by_query)


def test_query_and_form_may_share_the_parameters(client: httpx.Client) -> None:
    """The point is one for the segmenter that the form names; the default model is a classifier."""
    response = client.post("/cam?x=20&y=20&format=json", files=FILE, data={**SEGMENTER, "layer": "colour"})
    assert response.status_code == 200
    assert response.json()["model"]["name"] == SEGMENTER["model"]
    assert response.json()["layer"] == "colour"


@pytest.mark.parametrize(
    ("query", "fields", "detail"),
    [
        (
            "model=no-gradients",
            SEGMENTER,
            "model is 'no-gradients' in the query and 'segmentation-squeeze' in the form",
        ),
        ("top_k=2", {"top_k": "3"}, "top_k is 2 in the query and 3 in the form"),
    ],
)
def test_contradiction_of_query_and_form_is_rejected(
    client: httpx.Client, query: str, fields: dict[str, str], detail: str
) -> None:
    response = client.post(f"/predict?{query}", files=FILE, data=fields)
    assert problem_of(response) == (422, "bad_parameter", f"{detail}: give it once")


def test_query_and_form_may_agree(client: httpx.Client) -> None:
    response = client.post("/predict?top_k=2", files=FILE, data={"top_k": "02"})
    assert len(response.json()["predictions"]) == 2


def test_last_of_repeated_fields_counts_as_in_the_query(client: httpx.Client) -> None:
    fields = {"top_k": ["1", "2"]}
    for response in (
        client.post("/predict", files=FILE, data=fields),
        client.post("/predict", files=FILE, params=fields),
    ):
        assert len(response.json()["predictions"]) == 2


@pytest.mark.parametrize(
    ("path", "fields", "status", "code", "detail"),
    [
        ("/predict", {"modell": "x"}, 422, "bad_parameter", "the form: modell: unknown parameter; did you mean model?"),
        ("/predict", {"top_k": "0"}, 422, "bad_parameter", "top_k: Input should be greater than or equal to 1"),
        ("/predict", {"model": "missing"}, 404, "unknown_model", "missing"),
        ("/predict", {**SEGMENTER, "top_k": "2"}, 422, "bad_parameter", "top_k is for task=classification"),
        ("/cam", {"target": "purple"}, 404, "unknown_class", "purple"),
        ("/cam", {"layer": "body"}, 404, "unknown_layer", "body"),
        ("/cam", {"model": "no-gradients"}, 422, "gradients_unavailable", "no gradients"),
        ("/features", {"view": "grid"}, 422, "bad_parameter", "view needs a layer"),
    ],
)
def test_wrong_field_is_rejected(
    client: httpx.Client, path: str, fields: dict[str, str], status: int, code: str, detail: str
) -> None:
    found = problem_of(client.post(path, files=FILE, data=fields))
    assert found[:2] == (status, code)
    assert detail in found[2]


@pytest.mark.parametrize(
    "headers",
    [
        DISPOSITION + b"name=\"file\"; filename*=utf-8''%E6%9D%B1.png\r\n",
        DISPOSITION + b"name=file; filename=photo.png; filename*=utf-8''photo.png\r\n",
        DISPOSITION + b'name="file"; filename=""\r\n',
        DISPOSITION + b'name="file"; filename="a.png"\r\nContent-Type: text/plain\r\n',
        DISPOSITION + b'filename="a.png"\r\n',
        DISPOSITION + b'name="file"\r\nContent-Type: image/png\r\n',
        DISPOSITION + b'name="file"\r\ncontent-type: Application/Octet-Stream\r\n',
        DISPOSITION + b'name="image"\r\n',
        DISPOSITION + b'name="image"\r\nContent-Type: text/plain\r\n',
        b"Content-Type: image/png\r\n",
    ],
)
def test_part_is_an_image(client: httpx.Client, headers: bytes) -> None:
    response = post_parts(client, headers + b"\r\n" + PHOTO)
    assert response.json()["image"] == {"width": 60, "height": 40}


def test_text_part_with_a_type_is_a_parameter(client: httpx.Client) -> None:
    """As C#'s `StringContent` sends it."""
    image = DISPOSITION + b"name=image; filename=a.png\r\n\r\n" + PHOTO
    field = b"Content-Type: text/plain; charset=utf-8\r\n" + DISPOSITION + b"name=top_k\r\n\r\n2"
    assert len(post_parts(client, image, field).json()["predictions"]) == 2


def test_form_that_is_cut_off_is_rejected(client: httpx.Client) -> None:
    image = DISPOSITION + b'name="a"; filename="a.png"\r\n\r\n' + PHOTO
    field = DISPOSITION + b'name="model"\r\n\r\nsegmentation-squeeze'
    for parts in ([image], [image, field], [image, image]):
        found = problem_of(post_parts(client, *parts, end=b""))
        assert found == (400, "bad_request", "the multipart body is cut off: its closing boundary is missing")


@pytest.mark.parametrize("path", ["/predict", "/cam", "/features?layer=colour"])
def test_form_without_an_image_is_rejected(client: httpx.Client, path: str) -> None:
    found = problem_of(post_parts(client, DISPOSITION + b'name="version"\r\n\r\n1', path=path))
    assert found[:2] == (400, "bad_request")
    assert "has no image" in found[2]


def test_fields_are_bounded(client: httpx.Client) -> None:
    long = client.post("/predict", files=FILE, data={"photo": "x" * (MAX_FIELD_BYTES + 1)})
    assert problem_of(long)[:2] == (400, "bad_request")
    assert f"'photo' has more than {MAX_FIELD_BYTES} bytes; an image needs a file name" in problem_of(long)[2]
    many = client.post("/cam", files=FILE, data={"target": ["red"] * (MAX_FIELDS + 1)})
    assert problem_of(many)[:2] == (400, "bad_request")
    assert str(MAX_FIELDS) in problem_of(many)[2]


def test_form_selects_the_queue_of_its_model(bundles: Path) -> None:
    app = create_app(Settings(models=bundles, device="cpu", max_queue=1, threads=1))
    with TestClient(app) as client, ExitStack() as places:
        repository = app.state.percept.repository
        while client.get("/health/ready").status_code != 200:
            time.sleep(0.05)
        queue = repository.find(SEGMENTER["model"]).queue
        for _ in range(queue.capacity + queue.concurrency):
            places.enter_context(queue.admit())
        refused = client.post("/predict", files=FILE, data=SEGMENTER)
        assert (refused.status_code, refused.json()["code"]) == (429, "queue_full")
        assert refused.headers["retry-after"]
        assert client.post("/predict", files=FILE).status_code == 200
        with repository.find().queue.admit(), repository.find().queue.admit():
            assert client.post("/predict", files=FILE).status_code == 429
            assert client.post("/predict", files=FILE, data={"model": "no-gradients"}).status_code == 200


@pytest.mark.parametrize(("path", "params"), PARAMS.items())
def test_openapi_documents_every_field(client: httpx.Client, path: str, params: type[ModelParams]) -> None:
    body = client.get("/openapi.json").json()["paths"][path]["post"]["requestBody"]
    form = body["content"]["multipart/form-data"]["schema"]
    assert set(form["properties"]) == {"image", *params.model_fields}
    assert form["additionalProperties"] is False
    assert not any("default" in schema for schema in form["properties"].values())
