"""A real Prometheus, as Compose configures it, watches a real service: every panel of the dashboard has data."""

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
from tests.deploy.compose import FOLDER, rule_file
from tests.deploy.queries import queries
from tests.photos import encoded, marked

PROMETHEUS = shutil.which("prometheus")
ELSEWHERE = ("adapter", "keda", "variable namespace")  # they ask for labels that only Kubernetes gives
NOTHING = ("GPU", "Refusals", "annotation")  # there is no GPU, and nobody was refused or started anew

pytestmark = [
    pytest.mark.prove,
    pytest.mark.skipif(not PROMETHEUS, reason="NOT TESTED: prometheus (Debian: prometheus) is not installed"),
]


@pytest.fixture(scope="module")
def prometheus(start: Callable[..., Server], tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """Prometheus after it has scraped a busy service for a while."""
    server, folder = start(), tmp_path_factory.mktemp("prometheus")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    configure(folder, server.client.base_url.netloc.decode())
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
    busy = threading.Thread(target=ask, args=(server.client, done))
    busy.start()
    try:
        with httpx.Client(base_url=f"http://{address}") as client:
            wait(client)
            yield client
    finally:
        done.set()
        busy.join()
        process.terminate()
        process.wait(20)


def configure(folder: Path, target: str) -> None:
    """Compose's configuration, with the service's address, and scrapes every second instead of every 15."""
    config = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = ["rules.yml"]
    config["scrape_configs"][0]["static_configs"][0]["targets"] = [target]
    (folder / "prometheus.yml").write_text(json.dumps(config))
    (folder / "rules.yml").write_text(rule_file())


def ask(client: httpx.Client, done: threading.Event) -> None:
    """Calls of all kinds, until it is enough."""
    photo = encoded(marked((640, 480), (320, 240), 80), "JPEG")
    while not done.wait(0.05):
        client.post("/predict", content=photo)
        client.post("/cam?model=clothing", content=photo)
        client.get("/cam/none")


def wait(client: httpx.Client) -> None:
    """Until there are ten samples to look at."""
    for _ in range(600):
        try:
            result = client.get("/api/v1/query", params={"query": "count_over_time(percept_ready[5m])"}).json()
        except httpx.TransportError:
            result = {}
        if result.get("data", {}).get("result") and int(result["data"]["result"][0]["value"][1]) >= 10:
            return
        threading.Event().wait(0.1)
    raise AssertionError("Prometheus did not scrape the service for a minute")


def test_every_query_is_answered_and_every_panel_has_data(prometheus: httpx.Client) -> None:
    empty = set()
    for where, query in queries().items():
        answer = prometheus.get("/api/v1/query", params={"query": query}).json()
        assert answer["status"] == "success", (where, answer)
        if not answer["data"]["result"] and not where.startswith(("Percept", *ELSEWHERE, *NOTHING)):
            empty.add(where)
    assert not empty


def test_no_alert_fires_for_a_service_that_is_well(prometheus: httpx.Client) -> None:
    (group,) = prometheus.get("/api/v1/rules").json()["data"]["groups"]
    assert {rule["name"]: rule["state"] for rule in group["rules"] if rule["state"] != "inactive"} == {}
    assert {rule["health"] for rule in group["rules"]} == {"ok"}
