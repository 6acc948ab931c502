"""The benchmarks: load generators, process trees, the bars of overload, and a short run of each command."""

import asyncio
import json
import re
import sys
from pathlib import Path
from time import sleep

import pytest

from benchmarks import gpu, heatmap_latency, http_overhead, overload, startup, throughput
from benchmarks.harness import open_loop, process_tree, workspace
from benchmarks.harness.bare_loop import list_settings
from benchmarks.harness.closed_loop import run_closed_loop
from benchmarks.harness.peer_servers import ROOT
from benchmarks.harness.report import ClosedLoopResult, format_median
from percept.settings import BUILT_IN_BUNDLES
from tests.photos import draw_marker, encode_photo


def test_wrk_script_prints_every_result_field() -> None:
    script = (ROOT / "benchmarks" / "harness" / "closed_loop.lua").read_text()
    assert re.findall(r'"(\w+)": %', script) == list(ClosedLoopResult.__dataclass_fields__)


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


def test_throughput_is_measured(tiny: list[str], capsys, monkeypatch) -> None:
    monkeypatch.setattr(throughput, "SECONDS", 0.2)
    monkeypatch.setattr(throughput, "ROUNDS", 1)
    throughput.main()
    rows = cells(capsys.readouterr().out)
    assert [row[:2] for row in rows] == [
        [model, what] for model in ("cifar10", "clothing") for what in ("bare loop", *throughput.PATHS)
    ]
    assert all(float(row[2]) > 0 for row in rows)
    assert rows[0][3] == "1.00 (1.00 to 1.00)"


def test_heatmap_latency_is_measured(capsys, monkeypatch) -> None:
    monkeypatch.setitem(workspace.NETWORKS, "cifar10", str(BUILT_IN_BUNDLES / "cifar10" / "1"))
    monkeypatch.setattr(heatmap_latency, "NETWORKS", ("cifar10",))
    with pytest.raises(SystemExit):
        heatmap_latency.main(["--rounds", "2"])
    rows = cells(capsys.readouterr().out)
    assert [row[:2] for row in rows] == [["cifar10", name] for name, *_ in heatmap_latency.ROWS]
    assert all(float(row[2]) > 0 for row in rows)


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
