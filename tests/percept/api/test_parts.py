"""`/cam` as `multipart/mixed` and `application/zip`: prediction, numbers, maps and pictures from one pass."""

import asyncio
import io
import json
from collections.abc import Callable
from zipfile import ZipFile

import httpx
import numpy as np
import pytest
from PIL import Image

from percept.api.archive import ARCHIVES
from percept.api.negotiation import MEDIA_TYPES
from percept.runtime.network import Network
from percept.server.app import create_app
from percept.settings import Settings
from tests.conftest import Server
from tests.percept.api.test_archive import parsed
from tests.photos import encoded, marked

DATA = encoded(marked((150, 110), (40, 30), 24), "JPEG")
MODELS = ("cifar10", "clothing")
MARKERS = "model=classification-squeeze"


@pytest.fixture(scope="module")
def built_in(start: Callable[..., Server]) -> httpx.Client:
    return start().client


def files(answer: httpx.Response) -> dict[str, bytes]:
    """The files of an answer by name, in order."""
    assert answer.status_code == 200, answer.text
    kind = answer.headers["content-type"]
    if kind == "application/zip":
        with ZipFile(io.BytesIO(answer.content)) as archive:
            assert archive.testzip() is None
            return {name: archive.read(name) for name in archive.namelist()}
    message = parsed(kind, answer.content)
    assert message.get_content_type() == "multipart/mixed"
    assert not message.defects
    found = {part.get_filename(): part for part in message.iter_parts()}
    suffixes = {"json": "json", "npy": "npy", "jpg": "jpeg", "png": "png"}
    for name, part in found.items():
        assert part.get_content_type() == MEDIA_TYPES[suffixes[name.rsplit(".", 1)[1]]]
        assert part.get_content_disposition() == "attachment"
        assert int(part["content-length"]) == len(part.get_payload(decode=True))
    return {name: part.get_payload(decode=True) for name, part in found.items()}


def post(client: httpx.Client, query: str, path: str = "/cam") -> httpx.Response:
    answer = client.post(f"{path}?{query}", content=DATA)
    assert answer.status_code == 200, answer.text
    return answer


def nameless(data: bytes) -> dict:
    """JSON but for the ids, of which every answer has one of its own."""
    found = json.loads(data)
    for one in [found, *found.get("results", [])]:
        one.pop("id", None)
    return found


@pytest.mark.parametrize("format", ARCHIVES)
@pytest.mark.parametrize("model", MODELS)
def test_every_part_is_what_is_answered_alone(built_in: httpx.Client, model: str, format: str) -> None:
    """Byte by byte, but for the id."""
    query = f"model={model}&boxes=otsu&format={format}"
    found = files(post(built_in, query))
    mask = ["mask.png"] if model == "clothing" else []
    assert list(found) == ["prediction.json", "cam.json", *mask, "map.npy", "overlay.jpg"]
    alone = f"model={model}&format="
    assert nameless(found["prediction.json"]) == nameless(post(built_in, f"{alone}json", "/predict").content)
    assert nameless(found["cam.json"]) == nameless(post(built_in, f"{alone}json&boxes=otsu").content)
    assert found["map.npy"] == post(built_in, f"{alone}npy").content
    assert found["overlay.jpg"] == post(built_in, f"{alone}jpeg").content
    if mask:
        assert found["mask.png"] == post(built_in, f"{alone}png", "/predict").content
        assert np.asarray(Image.open(io.BytesIO(found["mask.png"]))).shape == (110, 150)
    assert json.loads(found["prediction.json"])["id"] == json.loads(found["cam.json"])["id"]


@pytest.mark.parametrize("query", ["size=photo", "scale=unit", "alpha=0.3&colormap=jet&legend=true", "field=true"])
def test_the_parameters_are_heeded(client: httpx.Client, query: str) -> None:
    found = files(post(client, f"{MARKERS}&format=zip&{query}"))
    kind, name = ("npy", "map.npy") if query.startswith("s") else ("jpeg", "overlay.jpg")
    assert found[name] == post(client, f"{MARKERS}&format={kind}&{query}").content


def test_a_heatmap_is_a_png(client: httpx.Client) -> None:
    found = files(post(client, "model=classification-crop&view=heatmap&format=multipart"))
    assert list(found)[-1] == "heatmap.png"
    assert found["heatmap.png"] == post(client, "model=classification-crop&view=heatmap").content


@pytest.mark.parametrize("format", ARCHIVES)
def test_several_targets_have_a_picture_each_and_one_array(client: httpx.Client, format: str) -> None:
    query = f"{MARKERS}&target=blue&target=red"
    found = files(post(client, f"{query}&format={format}"))
    assert list(found) == ["prediction.json", "cam.json", "map.npy", "overlay.0.jpg", "overlay.1.jpg"]
    assert nameless(found["cam.json"]) == nameless(post(client, f"{query}&format=json").content)
    assert found["map.npy"] == post(client, f"{query}&format=npy").content
    assert np.load(io.BytesIO(found["map.npy"])).shape == (2, 16, 12)
    for number, target in enumerate(("blue", "red")):
        assert found[f"overlay.{number}.jpg"] == post(client, f"{MARKERS}&target={target}").content


def test_maps_of_different_sizes_are_a_file_each(built_in: httpx.Client) -> None:
    known = built_in.get("/models/cifar10").json()["layers"]
    layers = [layer["name"] for layer in known if "gradcam" in layer["methods"]]
    query = "&".join(f"layer={name}" for name in layers)
    assert built_in.post(f"/cam?{query}&format=npy", content=DATA).status_code == 422
    found = files(post(built_in, f"{query}&format=zip"))
    results = json.loads(found["cam.json"])["results"]
    assert [one["layer"] for one in results] == layers
    for number, one in enumerate(results):
        assert list(np.load(io.BytesIO(found[f"map.{number}.npy"])).shape) == one["shape"]
        assert found[f"map.{number}.npy"] == post(built_in, f"layer={one['layer']}&format=npy").content
    assert "map.npy" not in found
    assert np.load(io.BytesIO(files(post(built_in, f"{query}&size=photo&format=zip"))["map.npy"])).shape == (
        len(layers),
        110,
        150,
    )


def test_a_sheet_comes_besides_its_pictures(client: httpx.Client) -> None:
    query = f"{MARKERS}&view=sheet&by=classes"
    found = files(post(client, f"{query}&format=multipart"))
    assert list(found)[-1] == "sheet.jpg"
    assert found["sheet.jpg"] == post(client, query).content
    results = json.loads(found["cam.json"])["results"]
    assert [f"overlay.{k}.jpg" for k in range(len(results))] == [name for name in found if "overlay" in name]
    assert found["overlay.0.jpg"] == post(client, f"{MARKERS}&target={results[0]['target']['label']}").content


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("application/zip", "application/zip"),
        ("multipart/mixed", "multipart/mixed"),
        ("multipart/*", "multipart/mixed"),
        ("application/zip;q=0.4, multipart/mixed;q=0.5", "multipart/mixed"),
        ("image/png;q=0.4, application/zip;q=0.5", "application/zip"),
        ("image/png;q=0.6, application/zip;q=0.5", "image/png"),
        ("application/zip, */*;q=0.1", "application/zip"),
        ("*/*", "image/jpeg"),
        ("application/zip;q=0, */*", "image/jpeg"),
        ("application/*", "application/x-npy"),
    ],
)
def test_accept_decides(client: httpx.Client, accept: str, kind: str) -> None:
    answer = client.post(f"/cam?{MARKERS}", content=DATA, headers={"accept": accept})
    assert answer.status_code == 200
    assert answer.headers["content-type"].split(";")[0] == kind


def test_what_is_not_acceptable_is_told_what_is(client: httpx.Client) -> None:
    for view in ("overlay", "heatmap", "sheet&by=classes"):
        answer = client.post(f"/cam?{MARKERS}&view={view}", content=DATA, headers={"accept": "application/x-tar"})
        assert (answer.status_code, answer.json()["code"]) == (406, "not_acceptable")
        assert "multipart/mixed, application/zip" in answer.json()["detail"]
    for path in ("predict", "features"):
        assert client.post(f"/{path}?{MARKERS}&format=zip", content=DATA).json()["code"] == "bad_parameter"


@pytest.mark.parametrize(("query", "code"), [("target=purple", "unknown_class"), ("boxes=2", "bad_parameter")])
def test_what_is_wrong_is_a_problem_as_ever(client: httpx.Client, query: str, code: str) -> None:
    answer = client.post(f"/cam?{MARKERS}&format=zip&{query}", content=DATA)
    assert (answer.headers["content-type"], answer.json()["code"]) == ("application/problem+json", code)


def test_a_zip_has_a_name_and_one_map_its_headers(client: httpx.Client) -> None:
    answer = post(client, f"{MARKERS}&format=zip")
    id = answer.headers["percept-id"]
    assert answer.headers["content-disposition"] == f'attachment; filename="percept-{id}.zip"'
    assert answer.headers["percept-target"].startswith("0; label=red")
    assert "percept-target" not in post(client, f"{MARKERS}&format=zip&top=2").headers


@pytest.mark.parametrize("model", ["classification-pad", "segmentation-crop"])
def test_an_image_that_is_kept_gives_the_same_and_a_tag_for_each_format(client: httpx.Client, model: str) -> None:
    sent = post(client, f"model={model}&format=zip&boxes=0.5")
    id, tags = sent.headers["percept-id"], set()
    for format in (*ARCHIVES, "jpeg"):
        by_format = client.get(f"/cam/{id}?format={format}&boxes=0.5" if format in ARCHIVES else f"/cam/{id}")
        again = client.get(by_format.url)
        assert again.content == by_format.content
        assert again.headers["content-type"] == by_format.headers["content-type"]
        assert by_format.headers["etag"].startswith('"')
        assert by_format.headers["vary"] == "Accept"
        if format in ARCHIVES:
            assert files(by_format) == files(sent)
        known = {"if-none-match": by_format.headers["etag"]}
        assert (client.get(by_format.url, headers=known).status_code) == 304
        tags.add(by_format.headers["etag"])
    for kind in ("multipart", "zip", "jpeg"):
        answer = client.get(f"/cam/{id}", headers={"accept": MEDIA_TYPES[kind]})
        assert answer.headers["content-type"].startswith(MEDIA_TYPES[kind])
        tags.add(answer.headers["etag"])
    assert len(tags) == 5, "the JPEG is the same by either way, as nothing but Accept asked for it"


def test_one_answer_takes_one_pass_of_the_trunk() -> None:
    """As many passes as the overlay alone: counted where all of them go through."""
    passes = 0
    forward = Network.forward

    def counted(self: Network, looks: list, alone: bool) -> list:
        nonlocal passes
        passes += len(looks)
        return forward(self, looks, alone)

    async def ask() -> list[int]:
        counts = []
        app = create_app(Settings(device="cpu"))
        async with app.router.lifespan_context(app):
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url="http://percept") as http:
                while (await http.get("/health/ready")).status_code != 200:
                    await asyncio.sleep(0.05)
                for format in ("jpeg", "zip", "multipart"):
                    before = passes
                    (await http.post(f"/cam?format={format}", content=DATA)).raise_for_status()
                    counts.append(passes - before)
        return counts

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Network, "forward", counted)
        assert asyncio.run(ask()) == [1, 1, 1]


def test_more_than_fits_in_memory_is_refused(client: httpx.Client) -> None:
    """64 maps of 1.2 megapixels; a single one may be as large as any photo."""
    large = encoded(marked((1200, 1000), (300, 300), 100), "JPEG")
    many = "&".join(["target=red", "target=blue"] * 32)
    for query in ("format=zip", "format=npy&size=photo"):
        answer = client.post(f"/cam?{MARKERS}&{query}&{many}", content=large)
        assert (answer.status_code, answer.json()["code"]) == (422, "bad_parameter")
        assert "64 maps of 1200 x 1000 pixels" in answer.json()["detail"]
    assert client.post(f"/cam?{MARKERS}&format=npy&{many}", content=large).status_code == 200


def test_the_documentation_lists_them(client: httpx.Client) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    for operation in (paths["/cam"]["post"], paths["/cam/{id}"]["get"]):
        assert {"multipart/mixed", "application/zip"} <= set(operation["responses"]["200"]["content"])
