"""The servers of `benchmarks/server_comparison.py`: their requirements, requests, answers and failures."""

import asyncio
import base64
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from starlette.datastructures import Headers
from starlette.formparsers import MultiPartParser

from benchmarks import server_comparison
from benchmarks.harness import peer_servers
from benchmarks.harness.peer_servers import PEERS, PEERS_FOLDER
from benchmarks.harness.server import BenchmarkError
from percept.errors import BundleError
from percept.imaging.decode import decode
from percept.imaging.geometry import compute_geometry
from percept.imaging.preprocess import prepare
from percept.runtime.network import Network, TrunkInput
from percept.tasks.table import TASKS
from tests.photos import draw_marker, encode_photo


def test_peer_requirements_are_pinned() -> None:
    for peer in PEERS.values():
        for requirement in peer.requirements:
            assert re.fullmatch(r"[\w.\[\]-]+==[\d.]+", requirement)


def test_tuned_peer_differs_only_in_its_workers(tmp_path: Path) -> None:
    tuned = {name: peer for name, peer in PEERS.items() if name.endswith(", tuned")}
    assert len(tuned) == 5
    for name, peer in tuned.items():
        plain = name.removesuffix(", tuned")
        assert (peer.tuned, PEERS[plain].tuned) == (True, False)
        assert (peer.path, peer.post, peer.networks) == (PEERS[plain].path, PEERS[plain].post, PEERS[plain].networks)
        folder = peer_servers.environment(name, tmp_path)
        assert folder == peer_servers.environment(plain, tmp_path)
        assert folder.name.startswith(f"{peer_servers.slug(plain)}-")


def test_peers_have_separate_environments(tmp_path: Path) -> None:
    plain = [name for name, peer in PEERS.items() if peer.requirements and not name.endswith(", tuned")]
    assert len({peer_servers.environment(name, tmp_path) for name in plain}) == len(plain) == 6


def test_every_peer_is_documented_and_has_a_baseline() -> None:
    text = (PEERS_FOLDER.parents[1] / "docs" / "benchmarks.md").read_text()
    for name, peer in PEERS.items():
        assert f"| {name} |" in text
        assert peer.against in (*PEERS, peer_servers.LIMIT)


def test_multipart_body_holds_the_photo() -> None:
    async def read() -> tuple[Any, Any]:
        kind, body = peer_servers.form_body("image")(b"\xff\xd8 photo")

        async def stream():
            yield body

        parts = await MultiPartParser(Headers({"content-type": kind}), stream()).parse()
        file = parts["image"]
        found = file.content_type, await file.read()
        await file.close()
        return found

    assert asyncio.run(read()) == ("image/jpeg", b"\xff\xd8 photo")


def test_inference_request_holds_the_photo() -> None:
    kind, body = peer_servers.inference_body(b"\xff\xd8 photo")
    (given,) = json.loads(body)["inputs"]
    assert kind == "application/json"
    assert [base64.b64decode(data) for data in given["data"]] == [b"\xff\xd8 photo"]


@pytest.mark.parametrize("name", ["classification-crop", "classification-squeeze", "segmentation-squeeze"])
@pytest.mark.parametrize("size", [(90, 130), (131, 90)])
def test_peers_answer_like_the_service(bundles: Path, name: str, size, monkeypatch) -> None:
    monkeypatch.setenv("BENCH_BUNDLE", str(bundles / name / "1"))
    monkeypatch.setenv("BENCH_INTRA", "0")
    from benchmarks.peers.model import Model

    data = encode_photo(draw_marker(size, (60, 50), 20), "JPEG")
    found = Model().answer(data)
    network = Network(bundles / name / "1", "cpu", 1)
    photo = decode(data, 10**8, 10**8)
    geometry = compute_geometry(photo.size, network.manifest.preprocessing)
    (outputs,) = network.run_trunk(
        [TrunkInput(prepare(photo, geometry, network.manifest.preprocessing), frozenset({"logits"}))]
    )
    answer = TASKS[network.manifest.task].predict(network.manifest, outputs["logits"], geometry, 5).model_dump()
    ((kind, expected),) = answer.items()
    for mine, theirs in zip(found[kind], expected, strict=True):
        assert mine == pytest.approx({key: theirs[key] for key in mine}, abs=1e-6)


COMPARISON = server_comparison.Comparison(Path(), Path(), 1, (1,), Path())
ERRORS = {
    "no answer after 60 s; it said why": BenchmarkError("no answer after 60 s; it said why"),
    "collecting / no such version": subprocess.CalledProcessError(1, ["pip"], output="collecting\nno such version"),
    "not enough photos": BundleError("not enough photos"),
}


@pytest.mark.parametrize(("reason", "error"), ERRORS.items())
def test_failed_peer_is_reported_and_not_retried(reason, error, monkeypatch) -> None:
    tried = []

    def fail(*arguments) -> None:
        tried.append(arguments)
        raise error

    monkeypatch.setattr(server_comparison, "measure", fail)
    reasons: dict[str, str] = {}
    assert [server_comparison.attempt("FastAPI", "small", turn, COMPARISON, reasons) for turn in (0, 1)] == [[], []]
    assert list(reasons) == ["FastAPI, small"]
    assert reasons["FastAPI, small"].endswith(reason)
    assert len(tried) == 1


def test_segmenter_is_skipped_for_peers_without_support(monkeypatch) -> None:
    monkeypatch.setattr(server_comparison, "measure", lambda *arguments: [arguments[0]])
    found = {name: server_comparison.attempt(name, "clothing", 0, COMPARISON, {}) for name in PEERS}
    assert {name for name, samples in found.items() if not samples} == {
        *("uvicorn alone", "Percept /cam", "grad-cam"),
    }
