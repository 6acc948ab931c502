"""The benchmarks: requests, parsing, ratios and tables, equal work by all peers, and a short run of each command."""

import asyncio
import base64
import json
import re
import subprocess
import sys
from pathlib import Path
from time import sleep
from typing import Any

import pytest
from starlette.datastructures import Headers
from starlette.formparsers import MultiPartParser

from benchmarks import gpu, http_overhead, overload, server_comparison, startup
from benchmarks.harness import open_loop, peer_servers, process_tree, workspace
from benchmarks.harness.bare_loop import list_settings
from benchmarks.harness.closed_loop import run_closed_loop
from benchmarks.harness.peer_servers import PEERS, PEERS_FOLDER
from benchmarks.harness.report import (
    ClosedLoopResult,
    format_median,
)
from benchmarks.harness.server import BenchmarkError
from percept.errors import BundleError
from percept.imaging.decode import decode
from percept.imaging.geometry import compute_geometry
from percept.imaging.preprocess import prepare
from percept.runtime.network import Network, TrunkInput
from percept.settings import BUILT_IN_BUNDLES
from percept.tasks.table import TASKS
from tests.photos import draw_marker, encode_photo


def test_wrk_script_prints_every_result_field() -> None:
    script = (PEERS_FOLDER.parent / "harness" / "closed_loop.lua").read_text()
    assert re.findall(r'"(\w+)": %', script) == list(ClosedLoopResult.__dataclass_fields__)


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


def test_every_bare_loop_setting_uses_all_cores() -> None:
    assert {setting.processes * setting.threads * setting.intra for setting in list_settings(4)} == {4}


def test_closed_loop_counts_responses(server, tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(encode_photo(draw_marker((64, 48), (20, 20), 9), "JPEG"))
    (tmp_path / "none.jpg").write_bytes(b"no photo")
    url = f"{server.client.base_url}/predict"
    good = asyncio.run(run_closed_loop(url, 2, 0.3, "image/jpeg", [str(tmp_path / "photo.jpg")]))
    bad = asyncio.run(run_closed_loop(url, 2, 0.3, "image/jpeg", [str(tmp_path / "none.jpg")]))
    assert good["refused"] == 0
    assert bad["refused"] == bad["answers"] > 0
    assert 0 < good["p50_ms"] <= good["p99_ms"]
    assert ClosedLoopResult(**good).rate > 0


def test_process_tree_is_measured_and_terminated(tmp_path: Path) -> None:
    work = "sum(range(10**7))"
    child = f"import time; {work}; print('done', flush=True); time.sleep(60)"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    log = tmp_path / "log"
    with process_tree.start_process([sys.executable, "-c", parent], {}, tmp_path, log) as running:
        for _ in range(200):
            if "done" in log.read_text():
                break
            sleep(0.05)
        tree = process_tree.find_tree(running.pid)
        assert len(tree) == 2
        assert process_tree.cpu_seconds(running.pid) > 0.05
        assert process_tree.resident_mb(tree) > process_tree.resident_mb(tree[:1]) > 1
    assert not any(process_tree.is_running(path) for path in tree)


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


def test_built_in_segmenter_is_a_benchmark_network() -> None:
    assert Path(workspace.NETWORKS["clothing"]) == BUILT_IN_BUNDLES / "clothing" / "1"


TINY = "classification-squeeze"


def cells(text: str) -> list[list[str]]:
    """The rows of the only table in a text, without the header."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.count(" | ") for line in lines}) == 1
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


@pytest.fixture
def tiny(bundles: Path, tmp_path: Path, monkeypatch) -> list[str]:
    """Options for a run of about a second: a tiny network, one photo, no wrk."""
    monkeypatch.setitem(workspace.NETWORKS, TINY, str(bundles / TINY / "1"))
    monkeypatch.setattr("benchmarks.harness.server.shutil.which", lambda name: None)
    for module in (overload, http_overhead, gpu):
        monkeypatch.setattr(module, "WARM_S", 0.2)
    return ["--networks", TINY, "--rounds", "1", "--photos", str(tmp_path / "none"), "--json", str(tmp_path / "json")]


def open_loop_sample(factor: float, good: int, turn: int = 0, **found: int) -> overload.Sample:
    counts = {"offered": good, "refused": 0, "retry_after": 0, "other": 0, "lost": 0, "connections": 1, **found}
    return overload.Sample("small", factor, turn, 1, good=good, late_ms=0, p50_ms=1, p99_ms=2, cpu_s=0.1, **counts)


OPEN_LOOP_CASES = {
    "held": ({"good": 96, "refused": 80, "retry_after": 80}, True),
    "fallen": ({"good": 94}, False),
    "no Retry-After": ({"good": 100, "refused": 80, "retry_after": 79}, False),
    "an error": ({"good": 100, "other": 1}, False),
    "no answer": ({"good": 100, "lost": 1}, False),
}


@pytest.mark.parametrize(("found", "good"), OPEN_LOOP_CASES.values(), ids=OPEN_LOOP_CASES)
def test_overload_bar_needs_rate_and_retry_after(found, good: bool) -> None:
    own = [open_loop_sample(2, **found)]
    assert overload.met([open_loop_sample(0, 90), open_loop_sample(1, 100), *own], own) is good


def test_overload_rate_is_relative_to_its_round() -> None:
    own = [open_loop_sample(2, 50, 0), open_loop_sample(2, 30, 1)]
    assert overload.shares(
        [open_loop_sample(0, 100, 0), open_loop_sample(0, 40, 1), open_loop_sample(1, 60, 1), *own], own
    ) == [0.5, 0.5]


def test_open_loop_counts_refusals_with_retry_after(start, bundles: Path, tmp_path: Path) -> None:
    server = start(bundles, PERCEPT_MAX_QUEUE="1", PERCEPT_THREADS="1")
    file = tmp_path / "photo.png"
    file.write_bytes(encode_photo(draw_marker((1200, 800), (300, 300), 90), "PNG"))
    url = f"{server.client.base_url}/predict?model=classification-squeeze"
    found = asyncio.run(open_loop.run_open_loop(url, 300, 0, 0.5, "image/png", [str(file)]))
    assert found.refused == found.retry_after > 0
    assert found.good > 0
    assert found.other == found.lost == 0
    assert 1 < found.connections <= found.offered
    assert 0 < found.p50_ms <= found.p99_ms


def test_open_loop_without_server_counts_losses() -> None:
    url = f"http://127.0.0.1:{process_tree.free_port()}/predict"
    found = asyncio.run(open_loop.run_open_loop(url, 100, 0, 0.2, "image/jpeg", [__file__]))
    assert found.lost == found.offered > 0
    assert found.good == 0


def test_overload_is_measured(tiny: list[str], tmp_path: Path, capsys) -> None:
    with pytest.raises(SystemExit):
        overload.main([*tiny, "--seconds", "0.4", "--lead", "0.1", "--clients", "4", "--factors", "0.5", "2"])
    rows = cells(capsys.readouterr().out)
    assert [row[1] for row in rows] == ["4 clients that wait", "0.5 x saturation", "2 x saturation"]
    samples = json.loads((tmp_path / "json").read_text())["samples"]
    assert [s["factor"] for s in samples] == [0, 0.5, 2]
    assert all(s["good"] and s["cpu_s"] > 0 for s in samples)


def test_http_overhead_is_measured(tiny: list[str], tmp_path: Path, capsys) -> None:
    with pytest.raises(SystemExit):
        http_overhead.main([*tiny, "--seconds", "0.4", "--clients", "1", "2"])
    assert [row[:2] for row in cells(capsys.readouterr().out)] == [[TINY, "1"], [TINY, "2"]]
    found = json.loads((tmp_path / "json").read_text())
    assert abs(found["bytes"] - http_overhead.BYTES) < http_overhead.BYTES / 5
    assert all(s["served_ms"] > s["floor_ms"] > 0 and s["bare_ms"] > 0 for s in found["samples"])


def test_startup_is_measured(tiny: list[str], tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(startup, "IDLE_S", 0.05)
    monkeypatch.setattr(startup, "PREDICTIONS", 4)
    with pytest.raises(SystemExit):
        startup.main(tiny)
    assert [row[5] for row in cells(capsys.readouterr().out)] == ["idle", "after 4 predictions"]
    (found,) = json.loads((tmp_path / "json").read_text())["samples"]
    assert found["served"]["ready_s"] > found["bare"]["ready_s"] > 0
    assert found["served"]["idle_mb"] > found["bare"]["idle_mb"] > 1


def test_startup_baseline_loads_the_same_graphs(bundles: Path) -> None:
    found = {str(path.relative_to(bundles)) for path in startup.list_graphs(bundles)}
    assert {"classification-pad/1/trunk.onnx", "classification-pad/1/tail.colour.onnx"} < found
    assert {path for path in found if path.startswith("no-gradients")} == {"no-gradients/1/trunk.onnx"}


def test_gpu_benchmark_runs_on_the_cpu(tiny: list[str], tmp_path: Path, capsys) -> None:
    gpu.main([*tiny, "--device", "cpu", "--seconds", "0.2", "--batches", "1", "2", "--clients", "1", "2"])
    rows = cells(capsys.readouterr().out)
    assert [row[1] for row in rows[:2] + rows[-2:]] == [
        "batches of 1",
        "batches of 2",
        "Percept, 1 client",
        "Percept, 2 clients",
    ]
    samples = json.loads((tmp_path / "json").read_text())["samples"]
    assert len(rows) == len(samples) == 6
    best = max(s["rate"] for s in samples if s["ready"])
    assert [row[3] for row in rows] == [format_median([s["rate"] / best], 2) for s in samples]


def test_unavailable_device_is_reported_in_one_line(monkeypatch) -> None:
    assert gpu.unavailable_reason("cpu") == ""
    assert "\n" not in gpu.unavailable_reason("cuda")
    monkeypatch.setattr(gpu, "unavailable_reason", lambda device: f"no {device}")
    with pytest.raises(SystemExit, match=r"^gpu.py: no cuda$"):
        gpu.main([])
