"""Three replicas behind nginx: what clients see while they are rolled one by one, and when one is killed.

Run with `-s` to see the tables.
"""

import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from percept.settings import BUILT_IN
from tests.bundles import bundle
from tests.deploy.fleet import NGINX, Fleet, fleet
from tests.deploy.load import Load, Seen, load
from tests.photos import encoded, marked

pytestmark = pytest.mark.skipif(not NGINX.exists(), reason="no nginx: apt-get install nginx-light")

PHOTO = encoded(marked((320, 240), (100, 100), 40), "JPEG")
JOBS = [("/predict", PHOTO), ("/cam", PHOTO), ("/cam?method=occlusion", PHOTO)]
CLIENTS = 4


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two folders of bundles, the second being the next version of the first."""
    root = tmp_path_factory.mktemp("models")
    return [bundle(root / str(version), version=version).parent.parent for version in (1, 2)]


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with fleet(tmp_path_factory.mktemp("fleet"), PERCEPT_THREADS="1") as found:
        yield found


@pytest.fixture
def trio(started: Fleet, models: list[Path]) -> Fleet:
    """Three replicas of the first models, whatever the test before has done to them."""
    started.serve(models[0])
    return started


def test_replicas_are_rolled_to_new_bundles_one_by_one_and_no_request_fails(trio: Fleet, models: list[Path]) -> None:
    with load(trio.url, JOBS, CLIENTS) as found:
        found.wait(50)
        ends = roll(trio, models[1], found)
        rolled = time.time()
        found.wait(50)
    show("rolled", trio, found)
    assert ends == [0, 0, 0]
    assert found.failures() == []
    assert {one.version for one in found.seen if one.at > rolled} == {2}
    for replica in trio.replicas:
        versions = [one.version for one in found.seen if one.replica == replica.address]
        assert versions == sorted(versions)
        assert set(versions) == {1, 2}


def test_a_killed_replica_costs_at_most_what_it_was_answering(trio: Fleet) -> None:
    victim = trio.replicas[1]
    with load(trio.url, JOBS, CLIENTS) as found:
        found.wait(50)
        killed = time.time()
        assert victim.end(signal.SIGKILL) == -signal.SIGKILL
        found.wait(100)
    lost = [one for one in found.seen if victim.address in one.tried and one.at < killed < one.at + one.seconds]
    show(f"killed {victim.address}, which was answering {len(lost)}", trio, found)
    assert len(found.failures()) <= len(lost) <= CLIENTS
    assert all(one.at <= killed for one in found.failures())
    after = [one for one in found.seen if one.at > killed + 0.1]
    assert {one.replica for one in after} == {r.address for r in trio.replicas} - {victim.address}


def test_an_image_is_found_again_whichever_replica_keeps_it(trio: Fleet) -> None:
    with httpx.Client(base_url=trio.url, timeout=60) as client:
        found = client.post("/predict", content=PHOTO).json()["id"]
        again = [client.get(f"/cam/{found}") for _ in range(6)]
        assert {one.status_code for one in again} == {200}
        unknown = client.get("/cam/" + "0" * len(found))
        assert (unknown.status_code, unknown.json()["code"]) == (404, "unknown_image")
        assert len(unknown.headers["x-upstream"].split(",")) == 3


def test_large_uploads_in_pieces_and_all_paths_pass(trio: Fleet) -> None:
    large = encoded(marked((2400, 1600), (700, 700), 300), "PNG", compress_level=0)
    assert len(large) > 8e6
    with httpx.Client(base_url=trio.url, timeout=60) as client:
        pieces = (large[at : at + 65536] for at in range(0, len(large), 65536))
        assert client.post("/predict", content=pieces, headers={"Content-Type": "image/png"}).status_code == 200
        too_large = client.post("/predict", content=bytes(21 * 2**20), headers={"Content-Type": "image/png"})
        assert (too_large.status_code, too_large.json()["code"]) == (413, "image_too_large")
        absent = client.get("/v2/models/absent")
        assert absent.status_code == 404
        assert absent.headers["content-type"] != "text/html"
        assert client.get("/metrics").status_code == 404
        assert client.post("/v2/repository/models/marker/load").status_code == 404  # a replica itself would say 403


def test_with_no_replica_left_the_answer_is_a_problem(trio: Fleet) -> None:
    for replica in trio.replicas:
        replica.end(signal.SIGKILL)
    answer = httpx.post(f"{trio.url}/none-left", content=PHOTO)
    assert (answer.status_code, answer.json()["code"]) == (503, "not_ready")
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["retry-after"]
    tried = trio.logged("POST /none-left")
    assert sum(replica.address in tried for replica in trio.replicas) == 2  # what kills one must not kill them all


@pytest.mark.prove
def test_the_built_in_models_are_rolled_and_killed_again_and_again(tmp_path: Path, shared: Path) -> None:
    photos = sorted((shared / "images").rglob("*.jpg"))[:8]
    assert photos
    paths = ("/predict", "/predict?model=clothing", "/cam", "/cam?model=clothing", "/features?layer=stage2")
    jobs = [(path, photo.read_bytes()) for photo in photos for path in paths]
    with fleet(tmp_path) as trio:
        trio.serve(BUILT_IN)
        for number in range(3):
            with load(trio.url, jobs, 12) as found:
                found.wait(100)
                ends = roll(trio, BUILT_IN, found)
                found.wait(100)
            show(f"built-in models, rolled the {number + 1}. time", trio, found)
            assert ends == [0, 0, 0]
            assert found.failures() == []
        for victim in trio.replicas:
            with load(trio.url, jobs, 12) as found:
                found.wait(100)
                killed = time.time()
                victim.end(signal.SIGKILL)
                found.wait(100)
                victim.start(BUILT_IN)
                victim.wait_ready()
                found.wait(100)
            lost = [one for one in found.seen if victim.address in one.tried and one.at < killed < one.at + one.seconds]
            show(f"built-in models, killed {victim.address}, which was answering {len(lost)}", trio, found)
            assert len(found.failures()) <= len(lost)


def roll(trio: Fleet, models: Path, found: Load) -> list[int]:
    """Stop each replica and start it with other models, the next when it has answered; the exit statuses."""
    ends = []
    for replica in trio.replicas:
        ends.append(replica.end())
        replica.start(models)
        replica.wait_ready()
        found.wait_for(replica.address)
    return ends


def show(what: str, trio: Fleet, found: Load) -> None:
    """A table of what clients saw, by replica."""
    print(f"\n{what}: {len(found.seen)} requests of {found.clients} clients, {len(found.failures())} failed")
    print(
        "| answered by | 200 | version 1 | version 2 | after another was tried | slowest s |\n|---|---|---|---|---|---|"
    )
    for address in [*(replica.address for replica in trio.replicas), ""]:
        mine = [one for one in found.seen if one.replica == address]
        if mine or address:
            print(f"| {address or 'nobody'} | {row(mine)} |")
    for reason, times in Counter((one.status, one.error) for one in found.failures()).items():
        print(f"failed {times} times: {reason}")


def row(mine: list[Seen]) -> str:
    versions = Counter(one.version for one in mine)
    moved = sum(len(one.tried) > 1 for one in mine)
    slowest = max((one.seconds for one in mine), default=0)
    return f"{sum(not one.failed for one in mine)} | {versions[1]} | {versions[2]} | {moved} | {slowest:.2f}"
