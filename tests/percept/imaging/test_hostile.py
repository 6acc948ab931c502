"""Hostile bytes: whatever is posted, the answer is a 2xx or a 4xx, the process lives and its memory stays."""

import random
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.conftest import Server
from tests.photos import encoded, marked

ENVELOPE = (
    b'--x\r\nContent-Disposition: form-data; name="a"; filename="f"\r\nContent-Type: image/png\r\n\r\n%s\r\n--x--\r\n'
)
PATHS = ("/predict", "/predict?model=segmentation-pad&format=png", "/cam")


@pytest.fixture(scope="module")
def victim(start, bundles: Path) -> Server:
    """A server of its own, warmed with the largest photos it takes, so that its memory is at its working size."""
    server = start(bundles, PERCEPT_MAX_IMAGE_PIXELS="6000000")
    large = encoded(marked((3000, 2000), (900, 900), 200), "JPEG")
    assert set(post_all(server, [large] * 24)) == {200}
    return server


def post_all(server: Server, bodies: Iterable[bytes]) -> list[int]:
    """Post every body to the endpoints in turn, two at a time; the statuses, none of which is a fault of ours."""

    def post(job: tuple[int, bytes]) -> int:
        answer = server.client.post(PATHS[job[0] % len(PATHS)], content=job[1])
        assert 200 <= answer.status_code < 300 or 400 <= answer.status_code < 500, answer.text
        return answer.status_code

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(post, enumerate(bodies)))


def bombard(server: Server, bodies: Iterable[bytes]) -> Counter[int]:
    """Post every body; the process lives, its memory stays, and the statuses are counted."""
    before = server.memory_mb()
    counts = Counter(post_all(server, bodies))
    assert server.process.poll() is None
    assert server.client.get("/health/ready").status_code == 200
    assert server.memory_mb() < before + 64
    return counts


def mutations(data: bytes, count: int) -> Iterator[bytes]:
    """`count` random mutations: bytes flipped, cut out, doubled, or the end cut off."""
    dice = random.Random(0)
    for _ in range(count):
        mutant = bytearray(data)
        for _ in range(dice.randint(1, 8)):
            if len(mutant) < 2:
                break
            a, b = sorted(dice.sample(range(len(mutant)), 2))
            act = dice.randrange(4)
            if act == 0:
                mutant[a] = dice.randrange(256)
            elif act == 1:
                del mutant[a : min(b, a + 64)]
            elif act == 2:
                mutant[a:a] = mutant[a : min(b, a + 64)]
            elif dice.random() < 0.2 and a > 16:
                del mutant[a:]
        yield bytes(mutant)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_thousand_mutations_of_an_image(victim: Server, kind: str) -> None:
    data = encoded(marked((120, 90), (40, 30), 12), kind)
    counts = bombard(victim, mutations(data, 1000))
    assert sum(counts.values()) == 1000
    assert counts[200] > 10
    assert counts[422] > 10


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("multipart/form-data; boundary=x", ENVELOPE % b"no image"),
        ("application/json", b'{"image": "bm8gaW1hZ2U="}'),
    ],
)
def test_mutations_of_the_envelope(victim: Server, content_type: str, body: bytes) -> None:
    for mutant in mutations(body, 500):
        answer = victim.client.post("/predict", content=mutant, headers={"content-type": content_type})
        assert 400 <= answer.status_code < 500, answer.text


@pytest.mark.parametrize("said", [True, False])
def test_mutations_of_an_inference_request(victim: Server, said: bool) -> None:
    """Of the JSON and of the binary tensors behind it, with a length of the JSON that is true, wrong or none."""
    image = encoded(marked((60, 45), (20, 15), 6))
    head = (
        b'{"inputs":[{"name":"image","shape":[1],"datatype":"BYTES","parameters":{"binary_data_size":%d}}],'
        b'"outputs":[{"name":"cam","parameters":{"binary_data":true,"target":"red"}},{"name":"scores"}]}'
    ) % (len(image) + 4)
    body = head + len(image).to_bytes(4, "little") + image
    headers = {"inference-header-content-length": str(len(head))} if said else {}
    statuses = Counter[int]()
    for mutant in mutations(body, 500):
        answer = victim.client.post("/v2/models/classification-squeeze/infer", content=mutant, headers=headers)
        assert answer.status_code == 200 or (400 <= answer.status_code < 500 and answer.json()["error"]), answer.text
        statuses[answer.status_code] += 1
    assert statuses[400] > 10
    assert (statuses[200] > 0) == said


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "BMP", "TIFF", "AVIF"])
def test_mutations_of_every_other_format(victim: Server, kind: str) -> None:
    data = encoded(marked((60, 45), (20, 15), 6), kind)
    assert sum(bombard(victim, mutations(data, 150)).values()) == 150


def test_every_odd_png(victim: Server, shared: Path) -> None:
    files = sorted((shared / "images" / "odd" / "pngsuite").glob("*.png"))
    counts = bombard(victim, [file.read_bytes() for file in files])
    assert sum(counts.values()) == len(files) > 100
    broken = [file for file in files if file.name.startswith("x")]
    assert counts[200] >= len(files) - len(broken) - 1
    assert broken


@pytest.mark.parametrize("name", ["go-fuzz-corpus-images", "libjpeg-turbo-testimages"])
def test_every_file_of_a_fuzz_corpus(victim: Server, shared: Path, name: str) -> None:
    with tarfile.open(shared / "images" / "odd" / f"{name}.tar") as archive:
        bodies = [archive.extractfile(m).read() for m in archive.getmembers() if m.isfile()]
    counts = bombard(victim, bodies)
    assert sum(counts.values()) == len(bodies)
