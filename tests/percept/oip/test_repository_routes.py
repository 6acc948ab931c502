"""`/v2/repository` through NVIDIA's client: models are listed, loaded and unloaded on a real server."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from tritonclient.http import InferenceServerClient
from tritonclient.utils import InferenceServerException

from tests.bundles import create_bundle
from tests.percept.oip.triton import RED, connect, image_input

ControlledServer = tuple[InferenceServerClient, Path, httpx.Client]


@pytest.fixture
def controlled(start: Callable[..., Any], tmp_path: Path) -> Iterator[ControlledServer]:
    """A Triton client of a server whose models can be loaded and unloaded, its repository, and an HTTP client."""
    create_bundle(tmp_path, "first")
    create_bundle(tmp_path, "second")
    server = start(tmp_path, PERCEPT_MODEL_CONTROL="explicit")
    with connect(server.client) as triton:
        yield triton, tmp_path, server.client


def states(triton: InferenceServerClient) -> dict[str, str]:
    """The state of every bundle in the index."""
    return {f"{entry['name']}/{entry['version']}": entry["state"] for entry in triton.get_model_repository_index()}


def test_models_are_loaded_and_unloaded(controlled: ControlledServer) -> None:
    triton, root, http = controlled
    assert states(triton) == {"first/1": "READY", "second/1": "READY"}
    id = http.post("/predict?model=first", content=RED).json()["id"]
    triton.unload_model("first")
    assert states(triton) == {"first/1": "UNAVAILABLE", "second/1": "READY"}
    assert not triton.is_model_ready("first")
    assert http.get(f"/cam/{id}").json()["code"] == "unknown_image"
    assert http.get("/models").json()["models"][0]["default"]  # the next classifier
    create_bundle(root, "first", version=2)
    create_bundle(root, "third")
    triton.load_model("first")
    assert triton.get_model_metadata("first")["versions"] == ["1", "2"]
    assert states(triton)["third/1"] == "UNAVAILABLE"
    assert triton.infer("first", image_input(RED)).get_response()["model_version"] == "2"
    ready = http.post("/v2/repository/index", json={"ready": True}).json()
    assert [one["name"] for one in ready] == ["first", "first", "second"]
    for request, name in ((triton.load_model, "unknown"), (triton.unload_model, "third"), (triton.load_model, "..")):
        with pytest.raises(InferenceServerException) as raised:
            request(name)
        assert raised.value.status() == "404"
    with pytest.raises(InferenceServerException, match=r"parameters\.config: Extra inputs"):
        triton.load_model("first", config="{}")


def test_broken_version_changes_nothing(controlled: ControlledServer) -> None:
    triton, root, http = controlled
    (create_bundle(root, "first", version=2) / "trunk.onnx").write_bytes(b"half")
    with (root / "first" / "1" / "trunk.onnx").open("ab") as file:
        file.write(b"!")
    with pytest.raises(InferenceServerException, match=r"first/1: trunk.onnx.*first/2: trunk.onnx") as raised:
        triton.load_model("first")
    assert raised.value.status() == "422"
    assert states(triton)["first/1"] == "READY"
    assert states(triton)["first/2"] == "UNAVAILABLE"
    assert set(http.get("/models").json()["refused"]) == {"first/1", "first/2"}
    assert triton.infer("first", image_input(RED)).get_response()["model_version"] == "1"


def test_requests_succeed_while_a_model_is_loaded(controlled: ControlledServer) -> None:
    """Clients send requests while versions are added; none fails."""
    triton, root, http = controlled
    results: list[tuple[int, int]] = []
    stopped = False

    def send_requests() -> None:
        with httpx.Client(base_url=http.base_url, timeout=60) as client:
            while not stopped:
                response = client.post("/predict?model=first", content=RED)
                results.append((response.status_code, response.json()["model"]["version"]))

    with ThreadPoolExecutor(3) as pool:
        senders = [pool.submit(send_requests) for _ in range(3)]
        try:
            for version in (2, 3, 4):
                create_bundle(root, "first", version)
                triton.load_model("first")
                assert triton.infer("first", image_input(RED)).get_response()["model_version"] == str(version)
        finally:
            stopped = True
        for sender in senders:
            sender.result()
    assert {status for status, _ in results} == {200}
    assert results[-1][1] == 4
