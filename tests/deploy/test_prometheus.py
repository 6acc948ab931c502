"""A real Prometheus, configured as for Compose, scrapes a real service: every panel of the dashboard has data."""

import json
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
import yaml

from tests.conftest import Server
from tests.deploy.compose import FOLDER, make_rule_file
from tests.deploy.queries import all_queries
from tests.photos import draw_marker, encode_photo

PROMETHEUS = shutil.which("prometheus")
KUBERNETES_ONLY = ("adapter", "keda", "variable namespace")  # queries for labels that only Kubernetes adds
NO_DATA = ("GPU", "Refusals", "annotation")  # there is no GPU, no refusal and no restart
ALERTS = ("Percept",)  # their queries return data only while they fire

pytestmark = [
    pytest.mark.prove,
    pytest.mark.skipif(not PROMETHEUS, reason="NOT TESTED: prometheus (Debian: prometheus) is not installed"),
]


@pytest.fixture(scope="module")
def prometheus(start: Callable[..., Server], tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A Prometheus that has scraped a busy service for some seconds."""
    server, folder = start(), tmp_path_factory.mktemp("prometheus")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    write_configuration(folder, server.client.base_url.netloc.decode())
    process = subprocess.Popen(
        [
            str(PROMETHEUS),
            "--config.file=prometheus.yml",
            f"--web.listen-address={address}",
            "--storage.tsdb.path=data",
        ],
        cwd=folder,
        stderr=subprocess.DEVNULL,
    )
    done = threading.Event()
    busy = threading.Thread(target=send_requests, args=(server.client, done))
    busy.start()
    try:
        with httpx.Client(base_url=f"http://{address}") as client:
            wait_for_samples(client)
            yield client
    finally:
        done.set()
        busy.join()
        process.terminate()
        process.wait(20)


def write_configuration(folder: Path, target: str) -> None:
    """Write the configuration of Compose, with the address of the service and a scrape interval of one second."""
    config = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = ["rules.yml"]
    config["scrape_configs"][0]["static_configs"][0]["targets"] = [target]
    (folder / "prometheus.yml").write_text(json.dumps(config))
    (folder / "rules.yml").write_text(make_rule_file())


def send_requests(client: httpx.Client, done: threading.Event) -> None:
    """Send requests of several kinds until `done` is set."""
    photo = encode_photo(draw_marker((640, 480), (320, 240), 80), "JPEG")
    while not done.wait(0.05):
        client.post("/predict", content=photo)
        client.post("/cam?model=clothing", content=photo)
        client.get("/cam/none")


def wait_for_samples(client: httpx.Client) -> None:
    """Wait until Prometheus has ten samples."""
    for _ in range(600):
        try:
            result = client.get("/api/v1/query", params={"query": "count_over_time(percept_ready[5m])"}).json()
        except httpx.TransportError:
            result = {}
        if result.get("data", {}).get("result") and int(result["data"]["result"][0]["value"][1]) >= 10:
            return
        threading.Event().wait(0.1)
    raise AssertionError("Prometheus did not scrape the service for a minute")


def test_every_panel_has_data(prometheus: httpx.Client) -> None:
    empty = set()
    for name, query in all_queries().items():
        answer = prometheus.get("/api/v1/query", params={"query": query}).json()
        assert answer["status"] == "success", (name, answer)
        if not answer["data"]["result"] and not name.startswith((*ALERTS, *KUBERNETES_ONLY, *NO_DATA)):
            empty.add(name)
    assert not empty


def test_no_alert_fires_for_a_healthy_service(prometheus: httpx.Client) -> None:
    (group,) = prometheus.get("/api/v1/rules").json()["data"]["groups"]
    assert {rule["name"]: rule["state"] for rule in group["rules"] if rule["state"] != "inactive"} == {}
    assert {rule["health"] for rule in group["rules"]} == {"ok"}
