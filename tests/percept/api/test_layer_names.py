"""Layers of any name: named in manifests, URLs, headers, archives and tensors of `/v2`, and the aliases of layers."""

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote, unquote

import httpx
import numpy as np
import onnx
import pytest
from onnx import helper

from percept.bundle.manifest import Layer
from tests.bundles import create_bundle, read_manifest_json, write_manifest
from tests.conftest import Server
from tests.photos import draw_marker, encode_photo

DATA = encode_photo(draw_marker((32, 32), (8, 8), 8))
ALIAS = "clip_162"
NAMES = ("_blocks.1", "stufe/größe 1:0", "a+b", "..", "100% &?#=")


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory, start: Callable[..., Server]) -> httpx.Client:
    """A server with a model whose layers are the same map under several names; the first has an alias."""
    root = tmp_path_factory.mktemp("names")
    add_names(create_bundle(root))
    return start(root).client


def add_names(folder: Path) -> None:
    """Replace the layer of a bundle by copies with the names."""
    model = onnx.load(folder / "trunk.onnx")
    (value,) = (v for v in model.graph.output if v.name == "colour")
    for name in NAMES:
        model.graph.node.append(helper.make_node("Identity", ["colour"], [name]))
        output = model.graph.output.add()
        output.CopyFrom(value)
        output.name = name
    model.graph.output.remove(value)
    (folder / "trunk.onnx").write_bytes(model.SerializeToString())
    manifest = read_manifest_json(folder)
    (layer,) = manifest["layers"]
    manifest["layers"] = [{**layer, "name": name, "aliases": [ALIAS] if i == 0 else []} for i, name in enumerate(NAMES)]
    write_manifest(folder, manifest | {"cam_layer": NAMES[0]}, rehash=True)


def test_layers_of_any_name_are_listed(client: httpx.Client) -> None:
    found = client.get("/models/marker").json()["layers"]
    assert [layer["name"] for layer in found] == list(NAMES)
    assert [layer["aliases"] for layer in found] == [[ALIAS], [], [], [], []]
    assert [layer["name"] for layer in client.post("/features").json()["layers"]] == list(NAMES)


@pytest.mark.parametrize("name", [*NAMES, ALIAS])
def test_layer_of_any_name_is_found_in_a_url(client: httpx.Client, name: str) -> None:
    """Percent-encoded; the header and the JSON of a map name the layer itself, not its alias."""
    expected = NAMES[0] if name == ALIAS else name
    features = client.post(f"/features?layer={quote(name, safe='')}", content=DATA)
    assert features.json()["layer"]["name"] == expected
    cam = client.post(f"/cam?layer={quote(name, safe='')}&format=json", content=DATA)
    assert cam.json()["layer"] == expected
    picture = client.post(f"/cam?layer={quote(name, safe='')}", content=DATA)
    assert unquote(picture.headers["percept-layer"]) == expected


def test_layers_of_any_names_are_fused(client: httpx.Client) -> None:
    """Also where a name contains the plus or the space that joins names."""
    for names in [NAMES[:2], NAMES[1:3], (NAMES[2], NAMES[2]), NAMES]:
        cam = client.post("/cam", params={"layer": "+".join(names), "format": "json"}, content=DATA)
        assert cam.json()["layer"] == "+".join(names)


def test_archive_has_no_layer_name_in_a_path(client: httpx.Client) -> None:
    cam = client.post("/cam", params={"layer": list(NAMES), "format": "zip"}, content=DATA)
    with zipfile.ZipFile(io.BytesIO(cam.content)) as archive:
        assert all(name.isascii() and "/" not in name and ".." not in name for name in archive.namelist())
        found = json.loads(archive.read("cam.json"))["results"]
    assert [answer["layer"] for answer in found] == list(NAMES)


def test_layers_of_any_name_are_tensors(client: httpx.Client) -> None:
    metadata = client.get("/v2/models/marker").json()
    assert set(NAMES) <= {output["name"] for output in metadata["outputs"]}
    pixels = np.zeros((1, 32, 32, 3), np.uint8)
    request = {
        "inputs": [{"name": "pixels", "shape": pixels.shape, "datatype": "UINT8", "data": pixels.ravel().tolist()}],
        "outputs": [{"name": name} for name in NAMES],
    }
    answer = client.post("/v2/models/marker/infer", json=request).json()
    assert [output["name"] for output in answer["outputs"]] == list(NAMES)


def test_name_with_control_characters_is_refused() -> None:
    with pytest.raises(ValueError, match="control characters"):
        Layer(name="a\x1b[2Jb", shape=(1, 1, 1), stride=(1, 1), unavailable="none")
