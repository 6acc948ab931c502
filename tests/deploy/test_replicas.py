"""Three replicas behind nginx: what clients see while they are rolled one by one, and while one is killed.

Run with `-s` to see the tables.
"""

import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from percept.settings import BUILT_IN_BUNDLES
from tests.bundles import create_bundle
from tests.deploy.load import Load, Outcome, run_load
from tests.deploy.replicas import NGINX, Replica, ReplicaSet, start_replicas
from tests.photos import draw_marker, encode_photo

pytestmark = pytest.mark.skipif(not NGINX.exists(), reason="no nginx: apt-get install nginx-light")

PHOTO = encode_photo(draw_marker((320, 240), (100, 100), 40), "JPEG")
REQUESTS = [("/predict", PHOTO), ("/cam", PHOTO), ("/cam?method=occlusion", PHOTO)]
CLIENTS = 4


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two folders of bundles; the second has the next version of the first."""
    root = tmp_path_factory.mktemp("models")
    return [create_bundle(root / str(version), version=version).parent.parent for version in (1, 2)]


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReplicaSet]:
    """nginx, and replicas in the state in which the last test left them."""
    with start_replicas(tmp_path_factory.mktemp("replicas"), PERCEPT_THREADS="1") as replicas:
        yield replicas


@pytest.fixture
def replicas(started: ReplicaSet, models: list[Path]) -> ReplicaSet:
    """Three ready replicas that serve the first models."""
    started.serve(models[0])
    return started


def test_rolling_update_fails_no_request(replicas: ReplicaSet, models: list[Path]) -> None:
    with run_load(replicas.url, REQUESTS, CLIENTS) as load:
        load.wait(50)
        statuses = roll(replicas, models[1], load)
        rolled = time.time()
        load.wait(50)
    show("rolled", replicas, load)
    assert statuses == [0, 0, 0]
    assert load.failures() == []
    assert {each.version for each in load.outcomes if each.at > rolled} == {2}
    for replica in replicas.replicas:
        versions = [each.version for each in load.outcomes if each.replica == replica.address]
        assert versions == sorted(versions)
        assert set(versions) == {1, 2}


def test_killed_replica_loses_only_its_requests_in_flight(replicas: ReplicaSet) -> None:
    victim = replicas.replicas[1]
    with run_load(replicas.url, REQUESTS, CLIENTS) as load:
        load.wait(50)
        killed = time.time()
        assert victim.stop(signal.SIGKILL) == -signal.SIGKILL
        load.wait(100)
    in_flight = requests_in_flight(load, victim, killed)
    show(f"killed {victim.address} with {in_flight} requests in flight", replicas, load)
    assert len(load.failures()) <= in_flight <= CLIENTS
    assert all(each.at <= killed for each in load.failures())
    after = [each for each in load.outcomes if each.at > killed + 0.1]
    assert {each.replica for each in after} == {r.address for r in replicas.replicas} - {victim.address}


def test_cached_image_is_found_on_any_replica(replicas: ReplicaSet) -> None:
    with httpx.Client(base_url=replicas.url, timeout=60) as client:
        id = client.post("/predict", content=PHOTO).json()["id"]
        responses = [client.get(f"/cam/{id}") for _ in range(6)]
        assert {response.status_code for response in responses} == {200}
        unknown = client.get("/cam/" + "0" * len(id))
        assert (unknown.status_code, unknown.json()["code"]) == (404, "unknown_image")
        assert len(unknown.headers["x-upstream"].split(",")) == 3


def test_large_uploads_and_other_paths_pass_through_nginx(replicas: ReplicaSet) -> None:
    large = encode_photo(draw_marker((2400, 1600), (700, 700), 300), "PNG", compress_level=0)
    assert len(large) > 8e6
    with httpx.Client(base_url=replicas.url, timeout=60) as client:
        chunks = (large[at : at + 65536] for at in range(0, len(large), 65536))
        assert client.post("/predict", content=chunks, headers={"Content-Type": "image/png"}).status_code == 200
        too_large = client.post("/predict", content=bytes(21 * 2**20), headers={"Content-Type": "image/png"})
        assert (too_large.status_code, too_large.json()["code"]) == (413, "image_too_large")
        absent = client.get("/v2/models/absent")
        assert absent.status_code == 404
        assert absent.headers["content-type"] != "text/html"
        assert client.get("/metrics").status_code == 404
        # nginx answers itself: a replica would answer 403.
        assert client.post("/v2/repository/models/marker/load").status_code == 404


def test_response_without_replicas_is_a_problem(replicas: ReplicaSet) -> None:
    for replica in replicas.replicas:
        replica.stop(signal.SIGKILL)
    response = httpx.post(f"{replicas.url}/none-left", content=PHOTO)
    assert (response.status_code, response.json()["code"]) == (503, "not_ready")
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["retry-after"]
    line = replicas.wait_for_log("POST /none-left")
    # A request that crashes a replica must not reach all of them.
    assert sum(replica.address in line for replica in replicas.replicas) == 2


@pytest.mark.prove
def test_built_in_models_survive_rolls_and_kills(tmp_path: Path, shared: Path) -> None:
    photos = sorted((shared / "images").rglob("*.jpg"))[:8]
    assert photos
    paths = ("/predict", "/predict?model=clothing", "/cam", "/cam?model=clothing", "/features?layer=stage2")
    requests = [(path, photo.read_bytes()) for photo in photos for path in paths]
    with start_replicas(tmp_path) as replicas:
        replicas.serve(BUILT_IN_BUNDLES)
        for number in range(3):
            with run_load(replicas.url, requests, 12) as load:
                load.wait(100)
                statuses = roll(replicas, BUILT_IN_BUNDLES, load)
                load.wait(100)
            show(f"built-in models, roll {number + 1}", replicas, load)
            assert statuses == [0, 0, 0]
            assert load.failures() == []
        for victim in replicas.replicas:
            with run_load(replicas.url, requests, 12) as load:
                load.wait(100)
                killed = time.time()
                victim.stop(signal.SIGKILL)
                load.wait(100)
                victim.start(BUILT_IN_BUNDLES)
                victim.wait_ready()
                load.wait(100)
            in_flight = requests_in_flight(load, victim, killed)
            show(f"built-in models, killed {victim.address} with {in_flight} requests in flight", replicas, load)
            assert len(load.failures()) <= in_flight


def roll(replicas: ReplicaSet, models: Path, load: Load) -> list[int]:
    """Restart the replicas one by one with other models, each after the last has answered; return the exit statuses."""
    statuses = []
    for replica in replicas.replicas:
        statuses.append(replica.stop())
        replica.start(models)
        replica.wait_ready()
        load.wait_for(replica.address)
    return statuses


def requests_in_flight(load: Load, replica: Replica, time: float) -> int:
    """Return the number of requests that a replica was answering at a time."""
    tried = (each for each in load.outcomes if replica.address in each.tried)
    return sum(each.at < time < each.at + each.seconds for each in tried)


def show(title: str, replicas: ReplicaSet, load: Load) -> None:
    """Print a table of the outcomes by replica."""
    print(f"\n{title}: {len(load.outcomes)} requests of {load.clients} clients, {len(load.failures())} failed")
    print("| replica | 200 | version 1 | version 2 | retried | slowest s |\n|---|---|---|---|---|---|")
    for address in [*(replica.address for replica in replicas.replicas), ""]:
        own = [each for each in load.outcomes if each.replica == address]
        if own or address:
            print(f"| {address or 'none'} | {table_row(own)} |")
    for reason, times in Counter((each.status, each.error) for each in load.failures()).items():
        print(f"failed {times} times: {reason}")


def table_row(outcomes: list[Outcome]) -> str:
    versions = Counter(each.version for each in outcomes)
    retried = sum(len(each.tried) > 1 for each in outcomes)
    slowest = max((each.seconds for each in outcomes), default=0)
    answered = sum(not each.failed for each in outcomes)
    return f"{answered} | {versions[1]} | {versions[2]} | {retried} | {slowest:.2f}"
