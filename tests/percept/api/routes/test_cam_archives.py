"""`/cam` as `multipart/mixed` and `application/zip`: prediction, numbers, maps and pictures from one pass."""

import asyncio
import io
import json
from collections.abc import Callable
from typing import Any
from zipfile import ZipFile

import httpx
import numpy as np
import pytest
from PIL import Image

from percept.api.cam_params import ARCHIVES
from percept.api.negotiation import MEDIA_TYPES
from percept.runtime.network import Network
from percept.server.app import create_app
from percept.settings import Settings
from tests.conftest import Server
from tests.percept.api.test_archive import parse_multipart
from tests.photos import draw_marker, encode_photo

DATA = encode_photo(draw_marker((150, 110), (40, 30), 24), "JPEG")
MODELS = ("cifar10", "clothing")
MARKER_MODEL = "model=classification-squeeze"


@pytest.fixture(scope="module")
def builtin(start: Callable[..., Server]) -> httpx.Client:
    """A client of a server with the built-in models."""
    return start().client


def files_of(response: httpx.Response) -> dict[str, bytes]:
    """The files of an archive by name, in order."""
    assert response.status_code == 200, response.text
    media_type = response.headers["content-type"]
    if media_type == "application/zip":
        with ZipFile(io.BytesIO(response.content)) as archive:
            assert archive.testzip() is None
            return {name: archive.read(name) for name in archive.namelist()}
    message = parse_multipart(media_type, response.content)
    assert message.get_content_type() == "multipart/mixed"
    assert not message.defects
    found: dict[str, Any] = {str(part.get_filename()): part for part in message.iter_parts()}
    suffixes = {"json": "json", "npy": "npy", "jpg": "jpeg", "png": "png"}
    for name, part in found.items():
        assert part.get_content_type() == MEDIA_TYPES[suffixes[name.rsplit(".", 1)[1]]]
        assert part.get_content_disposition() == "attachment"
        assert int(part["content-length"]) == len(part.get_payload(decode=True))
    return {name: part.get_payload(decode=True) for name, part in found.items()}


def post(client: httpx.Client, query: str, path: str = "/cam") -> httpx.Response:
    response = client.post(f"{path}?{query}", content=DATA)
    assert response.status_code == 200, response.text
    return response


def without_ids(data: bytes) -> dict:
    """JSON without the ids, which differ between responses."""
    parsed = json.loads(data)
    for result in [parsed, *parsed.get("results", [])]:
        result.pop("id", None)
    return parsed


@pytest.mark.parametrize("format", ARCHIVES)
@pytest.mark.parametrize("model", MODELS)
def test_every_file_equals_its_own_response(builtin: httpx.Client, model: str, format: str) -> None:
    """Byte for byte, except the id."""
    query = f"model={model}&boxes=otsu&format={format}"
    found = files_of(post(builtin, query))
    mask = ["mask.png"] if model == "clothing" else []
    assert list(found) == ["prediction.json", "cam.json", *mask, "map.npy", "overlay.jpg"]
    alone = f"model={model}&format="
    assert without_ids(found["prediction.json"]) == without_ids(post(builtin, f"{alone}json", "/predict").content)
    assert without_ids(found["cam.json"]) == without_ids(post(builtin, f"{alone}json&boxes=otsu").content)
    assert found["map.npy"] == post(builtin, f"{alone}npy").content
    assert found["overlay.jpg"] == post(builtin, f"{alone}jpeg").content
    if mask:
        assert found["mask.png"] == post(builtin, f"{alone}png", "/predict").content
        assert np.asarray(Image.open(io.BytesIO(found["mask.png"]))).shape == (110, 150)
    assert json.loads(found["prediction.json"])["id"] == json.loads(found["cam.json"])["id"]


@pytest.mark.parametrize("query", ["size=photo", "scale=unit", "alpha=0.3&colormap=jet&legend=true", "field=true"])
def test_style_parameters_apply_to_the_files(client: httpx.Client, query: str) -> None:
    found = files_of(post(client, f"{MARKER_MODEL}&format=zip&{query}"))
    format, name = ("npy", "map.npy") if query.startswith("s") else ("jpeg", "overlay.jpg")
    assert found[name] == post(client, f"{MARKER_MODEL}&format={format}&{query}").content


def test_heatmap_view_gives_a_png(client: httpx.Client) -> None:
    found = files_of(post(client, "model=classification-crop&view=heatmap&format=multipart"))
    assert list(found)[-1] == "heatmap.png"
    assert found["heatmap.png"] == post(client, "model=classification-crop&view=heatmap").content


@pytest.mark.parametrize("format", ARCHIVES)
def test_several_targets_give_pictures_and_one_array(client: httpx.Client, format: str) -> None:
    query = f"{MARKER_MODEL}&target=blue&target=red"
    found = files_of(post(client, f"{query}&format={format}"))
    assert list(found) == ["prediction.json", "cam.json", "map.npy", "overlay.0.jpg", "overlay.1.jpg"]
    assert without_ids(found["cam.json"]) == without_ids(post(client, f"{query}&format=json").content)
    assert found["map.npy"] == post(client, f"{query}&format=npy").content
    assert np.load(io.BytesIO(found["map.npy"])).shape == (2, 16, 12)
    for number, target in enumerate(("blue", "red")):
        assert found[f"overlay.{number}.jpg"] == post(client, f"{MARKER_MODEL}&target={target}").content


def test_maps_of_different_sizes_are_separate_files(builtin: httpx.Client) -> None:
    described = builtin.get("/models/cifar10").json()["layers"]
    layers = [layer["name"] for layer in described if "gradcam" in layer["methods"]]
    query = "&".join(f"layer={name}" for name in layers)
    assert builtin.post(f"/cam?{query}&format=npy", content=DATA).status_code == 422
    found = files_of(post(builtin, f"{query}&format=zip"))
    results = json.loads(found["cam.json"])["results"]
    assert [one["layer"] for one in results] == layers
    for number, one in enumerate(results):
        assert list(np.load(io.BytesIO(found[f"map.{number}.npy"])).shape) == one["shape"]
        assert found[f"map.{number}.npy"] == post(builtin, f"layer={one['layer']}&format=npy").content
    assert "map.npy" not in found
    stacked = files_of(post(builtin, f"{query}&size=photo&format=zip"))["map.npy"]
    assert np.load(io.BytesIO(stacked)).shape == (len(layers), 110, 150)


def test_sheet_is_added_to_its_pictures(client: httpx.Client) -> None:
    query = f"{MARKER_MODEL}&view=sheet&by=classes"
    found = files_of(post(client, f"{query}&format=multipart"))
    assert list(found)[-1] == "sheet.jpg"
    assert found["sheet.jpg"] == post(client, query).content
    results = json.loads(found["cam.json"])["results"]
    assert [f"overlay.{k}.jpg" for k in range(len(results))] == [name for name in found if "overlay" in name]
    assert found["overlay.0.jpg"] == post(client, f"{MARKER_MODEL}&target={results[0]['target']['label']}").content


@pytest.mark.parametrize(
    ("accept", "media_type"),
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
def test_accept_chooses_the_archive(client: httpx.Client, accept: str, media_type: str) -> None:
    response = client.post(f"/cam?{MARKER_MODEL}", content=DATA, headers={"accept": accept})
    assert response.status_code == 200
    assert response.headers["content-type"].split(";")[0] == media_type


def test_not_acceptable_lists_the_archives(client: httpx.Client) -> None:
    for view in ("overlay", "heatmap", "sheet&by=classes"):
        response = client.post(
            f"/cam?{MARKER_MODEL}&view={view}", content=DATA, headers={"accept": "application/x-tar"}
        )
        assert (response.status_code, response.json()["code"]) == (406, "not_acceptable")
        assert "multipart/mixed, application/zip" in response.json()["detail"]
    for path in ("predict", "features"):
        assert client.post(f"/{path}?{MARKER_MODEL}&format=zip", content=DATA).json()["code"] == "bad_parameter"


@pytest.mark.parametrize(("query", "code"), [("target=purple", "unknown_class"), ("boxes=2", "bad_parameter")])
def test_failure_with_an_archive_format_is_a_problem(client: httpx.Client, query: str, code: str) -> None:
    response = client.post(f"/cam?{MARKER_MODEL}&format=zip&{query}", content=DATA)
    assert (response.headers["content-type"], response.json()["code"]) == ("application/problem+json", code)


def test_archive_of_one_map_has_headers_and_a_name(client: httpx.Client) -> None:
    response = post(client, f"{MARKER_MODEL}&format=zip")
    id = response.headers["percept-id"]
    assert response.headers["content-disposition"] == f'attachment; filename="percept-{id}.zip"'
    assert response.headers["percept-target"].startswith("0; label=red")
    assert "percept-target" not in post(client, f"{MARKER_MODEL}&format=zip&top=2").headers


@pytest.mark.parametrize("model", ["classification-pad", "segmentation-crop"])
def test_cached_image_gives_the_same_archive_and_etags(client: httpx.Client, model: str) -> None:
    sent = post(client, f"model={model}&format=zip&boxes=0.5")
    id, etags = sent.headers["percept-id"], set()
    for format in (*ARCHIVES, "jpeg"):
        by_format = client.get(f"/cam/{id}?format={format}&boxes=0.5" if format in ARCHIVES else f"/cam/{id}")
        again = client.get(by_format.url)
        assert again.content == by_format.content
        assert again.headers["content-type"] == by_format.headers["content-type"]
        assert by_format.headers["etag"].startswith('"')
        assert by_format.headers["vary"] == "Accept"
        if format in ARCHIVES:
            assert files_of(by_format) == files_of(sent)
        known = {"if-none-match": by_format.headers["etag"]}
        assert (client.get(by_format.url, headers=known).status_code) == 304
        etags.add(by_format.headers["etag"])
    for format in ("multipart", "zip", "jpeg"):
        response = client.get(f"/cam/{id}", headers={"accept": MEDIA_TYPES[format]})
        assert response.headers["content-type"].startswith(MEDIA_TYPES[format])
        etags.add(response.headers["etag"])
    assert len(etags) == 5, "the two JPEG responses have the same ETag"


def test_archive_takes_one_pass_of_the_trunk() -> None:
    """As many passes as an overlay: counted in the method that runs them all."""
    passes = 0
    run_trunk = Network.run_trunk

    def count(self: Network, inputs: list, alone: bool) -> list:
        nonlocal passes
        passes += len(inputs)
        return run_trunk(self, inputs, alone)

    async def count_passes() -> list[int]:
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
        patch.setattr(Network, "run_trunk", count)
        assert asyncio.run(count_passes()) == [1, 1, 1]


def test_maps_that_exceed_the_memory_limit_are_rejected(client: httpx.Client) -> None:
    """64 maps of 1.2 megapixels; a single map may be as large as any photo."""
    large = encode_photo(draw_marker((1200, 1000), (300, 300), 100), "JPEG")
    many = "&".join(["target=red", "target=blue"] * 32)
    for query in ("format=zip", "format=npy&size=photo"):
        response = client.post(f"/cam?{MARKER_MODEL}&{query}&{many}", content=large)
        assert (response.status_code, response.json()["code"]) == (422, "bad_parameter")
        assert "64 maps of 1200 x 1000 pixels" in response.json()["detail"]
    assert client.post(f"/cam?{MARKER_MODEL}&format=npy&{many}", content=large).status_code == 200


def test_openapi_lists_the_archives(client: httpx.Client) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    for operation in (paths["/cam"]["post"], paths["/cam/{id}"]["get"]):
        assert {"multipart/mixed", "application/zip"} <= set(operation["responses"]["200"]["content"])
