"""Images from request bodies of every form, sent to a real server."""

import base64
import json

import httpx
import pytest
from PIL import Image

from tests.photos import draw_marker, encode_photo

PHOTO = encode_photo(draw_marker((60, 40), (20, 20), 10))
IMAGE_PART = {"image": ("photo.png", PHOTO, "image/png")}


def problem_of(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, response.json().get("code", "")


@pytest.mark.parametrize(
    "content_type",
    ["image/png", "image/x-unknown", "application/octet-stream", "application/x-www-form-urlencoded", ""],
)
def test_raw_body_is_an_image(client: httpx.Client, content_type: str) -> None:
    response = client.post("/predict", content=PHOTO, headers={"content-type": content_type})
    assert response.status_code == 200
    assert response.json()["image"] == {"width": 60, "height": 40}


def test_chunked_body_is_an_image(client: httpx.Client) -> None:
    response = client.post("/predict", content=iter([PHOTO[:100], PHOTO[100:]]))
    assert response.status_code == 200


def test_multipart_file_is_an_image(client: httpx.Client) -> None:
    response = client.post("/predict", files=IMAGE_PART)
    assert response.json()["image"] == {"width": 60, "height": 40}


@pytest.mark.parametrize("prefix", ["", "data:image/png;base64,"])
@pytest.mark.parametrize("encode", [base64.b64encode, base64.encodebytes], ids=["plain", "in lines"])
def test_json_body_holds_base64(client: httpx.Client, prefix: str, encode) -> None:
    response = client.post("/predict", json={"image": prefix + encode(PHOTO).decode()})
    assert response.json()["image"] == {"width": 60, "height": 40}


@pytest.mark.parametrize(
    "body", ["", "{", "[]", "{}", '{"image": 3}', '{"image": ""}', '{"image": "no base64!"}', '{"image":"AA==","x":1}']
)
def test_json_without_an_image_is_a_bad_request(client: httpx.Client, body: str) -> None:
    response = client.post("/predict", content=body, headers={"content-type": "application/json"})
    assert problem_of(response) == (400, "bad_request")


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("multipart/form-data", b"no boundary"),
        ("multipart/form-data; boundary=x", b"no such boundary"),
        ("multipart/form-data; boundary=x", b"--x\r\nbroken"),
        (
            "multipart/form-data; boundary=x",
            b'--x\r\nContent-Disposition: form-data; name="top_k"\r\n\r\n1\r\n--x--\r\n',
        ),
    ],
)
def test_multipart_without_a_file_is_a_bad_request(client: httpx.Client, content_type: str, body: bytes) -> None:
    response = client.post("/predict", content=body, headers={"content-type": content_type})
    assert problem_of(response) == (400, "bad_request")


def test_other_media_types_are_unsupported(client: httpx.Client) -> None:
    for kind in ("text/plain", "application/pdf", "video/mp4"):
        response = client.post("/predict", content=PHOTO, headers={"content-type": kind})
        assert problem_of(response) == (415, "unsupported_media_type")


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "GZIP", "gzip, identity"])
def test_compressed_bodies_are_unsupported(client: httpx.Client, coding: str) -> None:
    for path in ("/predict", "/cam", "/features?layer=colour", "/v2/models/classification-squeeze/infer"):
        for body in ({"content": PHOTO}, {"files": IMAGE_PART}, {"json": {"image": ""}}):
            response = client.post(path, headers={"content-encoding": coding}, **body)
            assert problem_of(response) == (415, "unsupported_media_type")
            assert coding in response.json()["detail"]


def test_identity_is_no_coding(client: httpx.Client) -> None:
    assert client.post("/predict", content=PHOTO, headers={"content-encoding": "Identity"}).status_code == 200


def test_too_many_bytes_are_rejected_in_every_form(client: httpx.Client) -> None:
    big = b"\x89PNG" + bytes(3_000_001)
    for response in (
        client.post("/predict", content=big),
        client.post("/predict", content=iter([big])),
        client.post("/predict", files={"image": big}),
        client.post("/predict", json={"image": base64.b64encode(big).decode()}),
    ):
        assert problem_of(response) == (413, "image_too_large")


def test_too_many_pixels_are_rejected(client: httpx.Client) -> None:
    bomb = encode_photo(Image.new("1", (20000, 20000)))
    response = client.post("/predict", content=bomb)
    assert len(bomb) < 100_000
    assert problem_of(response) == (413, "image_too_large")
    assert "20000 x 20000" in response.json()["detail"]


def test_several_files_give_results_or_problems_in_order(client: httpx.Client) -> None:
    other = encode_photo(draw_marker((30, 50), (10, 10), 5))
    parts = [("a", PHOTO), ("b", b"no image"), ("c", other)]
    response = client.post("/predict", files=[(name, (name, data)) for name, data in parts])
    assert response.status_code == 200
    first, second, third = response.json()["results"]
    assert (first["image"]["width"], third["image"]["width"]) == (60, 30)
    assert (second["status"], second["code"]) == (415, "not_an_image")


def test_too_many_files_are_a_bad_request(client: httpx.Client) -> None:
    response = client.post("/predict", files=[("image", (f"{k}", PHOTO)) for k in range(5)])
    assert problem_of(response) == (400, "bad_request")
    assert "4" in response.json()["detail"]


def test_several_files_for_a_single_image_endpoint_are_rejected(client: httpx.Client) -> None:
    for path in ("/cam", "/features?layer=colour"):
        response = client.post(path, files=[("a", ("a", PHOTO)), ("b", ("b", PHOTO))])
        assert problem_of(response) == (400, "bad_request")


def test_several_files_with_a_picture_format_are_rejected(client: httpx.Client) -> None:
    response = client.post(
        "/predict?model=segmentation-pad&format=png", files=[("a", ("a", PHOTO)), ("b", ("b", PHOTO))]
    )
    assert problem_of(response) == (422, "bad_parameter")


def test_openapi_example_works(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    example = document["paths"]["/predict"]["post"]["requestBody"]["content"]["application/json"]["example"]
    response = client.post("/predict", content=json.dumps(example), headers={"content-type": "application/json"})
    assert response.status_code == 200
