"""Images out of requests of every form, over a real socket."""

import asyncio
import base64
import json
import math

import httpx
import pytest
from PIL import Image
from starlette.requests import ClientDisconnect

from percept.api.body import attended
from tests.photos import encoded, marked

PHOTO = encoded(marked((60, 40), (20, 20), 10))
IMAGE_PART = {"image": ("photo.png", PHOTO, "image/png")}


def code(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json().get("code", "")


@pytest.mark.parametrize(
    "content_type",
    ["image/png", "image/x-unknown", "application/octet-stream", "application/x-www-form-urlencoded", ""],
)
def test_a_raw_body_is_an_image(client: httpx.Client, content_type: str) -> None:
    answer = client.post("/predict", content=PHOTO, headers={"content-type": content_type})
    assert answer.status_code == 200
    assert answer.json()["image"] == {"width": 60, "height": 40}


def test_a_chunked_body_is_an_image(client: httpx.Client) -> None:
    answer = client.post("/predict", content=iter([PHOTO[:100], PHOTO[100:]]))
    assert answer.status_code == 200


def test_a_file_part_is_an_image(client: httpx.Client) -> None:
    answer = client.post("/predict", files=IMAGE_PART, data={"comment": "a field is passed over"})
    assert answer.json()["image"] == {"width": 60, "height": 40}


@pytest.mark.parametrize("prefix", ["", "data:image/png;base64,"])
@pytest.mark.parametrize("encode", [base64.b64encode, base64.encodebytes], ids=["plain", "in lines"])
def test_json_carries_base64(client: httpx.Client, prefix: str, encode) -> None:
    answer = client.post("/predict", json={"image": prefix + encode(PHOTO).decode()})
    assert answer.json()["image"] == {"width": 60, "height": 40}


@pytest.mark.parametrize(
    "body", ["", "{", "[]", "{}", '{"image": 3}', '{"image": ""}', '{"image": "no base64!"}', '{"image":"AA==","x":1}']
)
def test_json_that_carries_none_is_a_bad_request(client: httpx.Client, body: str) -> None:
    answer = client.post("/predict", content=body, headers={"content-type": "application/json"})
    assert code(answer) == (400, "bad_request")


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("multipart/form-data", b"no boundary"),
        ("multipart/form-data; boundary=x", b"nothing of the kind"),
        ("multipart/form-data; boundary=x", b"--x\r\nbroken"),
        (
            "multipart/form-data; boundary=x",
            b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\ntext\r\n--x--\r\n',
        ),
    ],
)
def test_a_multipart_body_without_file_is_a_bad_request(client: httpx.Client, content_type: str, body: bytes) -> None:
    answer = client.post("/predict", content=body, headers={"content-type": content_type})
    assert code(answer) == (400, "bad_request")


def test_other_media_types_are_unsupported(client: httpx.Client) -> None:
    for kind in ("text/plain", "application/pdf", "video/mp4"):
        answer = client.post("/predict", content=PHOTO, headers={"content-type": kind})
        assert code(answer) == (415, "unsupported_media_type")


def test_too_many_bytes_are_refused_in_every_form(client: httpx.Client) -> None:
    big = b"\x89PNG" + bytes(3_000_001)
    for answer in (
        client.post("/predict", content=big),
        client.post("/predict", content=iter([big])),
        client.post("/predict", files={"image": big}),
        client.post("/predict", json={"image": base64.b64encode(big).decode()}),
    ):
        assert code(answer) == (413, "image_too_large")


def test_too_many_pixels_are_refused(client: httpx.Client) -> None:
    bomb = encoded(Image.new("1", (20000, 20000)))
    answer = client.post("/predict", content=bomb)
    assert len(bomb) < 100_000
    assert code(answer) == (413, "image_too_large")
    assert "20000 x 20000" in answer.json()["detail"]


def test_several_files_give_results_in_order_each_a_result_or_a_problem(client: httpx.Client) -> None:
    other = encoded(marked((30, 50), (10, 10), 5))
    parts = [("a", PHOTO), ("b", b"no image"), ("c", other)]
    answer = client.post("/predict", files=[(name, (name, data)) for name, data in parts])
    assert answer.status_code == 200
    first, second, third = answer.json()["results"]
    assert (first["image"]["width"], third["image"]["width"]) == (60, 30)
    assert (second["status"], second["code"]) == (415, "not_an_image")


def test_too_many_files_are_a_bad_request(client: httpx.Client) -> None:
    answer = client.post("/predict", files=[("image", (f"{k}", PHOTO)) for k in range(5)])
    assert code(answer) == (400, "bad_request")
    assert "4" in answer.json()["detail"]


def test_where_one_image_is_meant_several_are_a_bad_request(client: httpx.Client) -> None:
    for path in ("/cam", "/features?layer=colour"):
        answer = client.post(path, files=[("a", ("a", PHOTO)), ("b", ("b", PHOTO))])
        assert code(answer) == (400, "bad_request")


def test_several_images_have_no_picture(client: httpx.Client) -> None:
    answer = client.post("/predict?model=segmentation-pad&format=png", files=[("a", ("a", PHOTO)), ("b", ("b", PHOTO))])
    assert code(answer) == (422, "bad_parameter")


def test_the_example_of_the_documentation_works(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    example = document["paths"]["/predict"]["post"]["requestBody"]["content"]["application/json"]["example"]
    answer = client.post("/predict", content=json.dumps(example), headers={"content-type": "application/json"})
    assert answer.status_code == 200


class Leaving:
    """A request whose client goes away after some looks."""

    def __init__(self, looks: float) -> None:
        self.looks = looks

    async def is_disconnected(self) -> bool:
        self.looks -= 1
        return self.looks < 0


def test_work_ends_when_nobody_waits_for_it_any_more() -> None:
    ended = []

    async def endless() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append(True)

    with pytest.raises(ClientDisconnect):
        asyncio.run(attended(Leaving(1), endless()))
    assert ended == [True]


def test_work_that_somebody_waits_for_gives_its_result_or_its_error() -> None:
    async def quick() -> int:
        return 7

    async def broken() -> int:
        raise ValueError("broken")

    assert asyncio.run(attended(Leaving(math.inf), quick())) == 7
    with pytest.raises(ValueError, match="broken"):
        asyncio.run(attended(Leaving(math.inf), broken()))
