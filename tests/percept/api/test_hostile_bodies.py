"""Hostile request bodies: every answer is a 2xx or a 4xx, the process survives, and its memory does not grow."""

import random
import tarfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.conftest import Server
from tests.photos import draw_marker, encode_photo

MULTIPART = (
    b'--x\r\nContent-Disposition: form-data; name="a"; filename="f"\r\nContent-Type: image/png\r\n\r\n%s\r\n--x--\r\n'
)
PATHS = ("/predict", "/predict?model=segmentation-pad&format=png", "/cam")


@pytest.fixture(scope="module")
def attacked(start: Callable[..., Server], bundles: Path) -> Server:
    """A separate server, after a few requests with the largest photos it accepts: its memory has its working size."""
    server = start(bundles, PERCEPT_MAX_IMAGE_PIXELS="6000000")
    large = encode_photo(draw_marker((3000, 2000), (900, 900), 200), "JPEG")
    assert set(post_all(server, [large] * 24)) == {200}
    return server


def post_all(server: Server, bodies: Iterable[bytes]) -> list[int]:
    """Post every body to the endpoints in turn, two at a time, and return the statuses; a 5xx fails the test."""

    def post(job: tuple[int, bytes]) -> int:
        answer = server.client.post(PATHS[job[0] % len(PATHS)], content=job[1])
        assert 200 <= answer.status_code < 300 or 400 <= answer.status_code < 500, answer.text
        return answer.status_code

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(post, enumerate(bodies)))


def attack(server: Server, bodies: Iterable[bytes]) -> Counter[int]:
    """Post every body and count the statuses; the process must survive and its memory must not grow."""
    before = server.memory_mb()
    counts = Counter(post_all(server, bodies))
    assert server.process.poll() is None
    assert server.client.get("/health/ready").status_code == 200
    assert server.memory_mb() < before + 64
    return counts


def mutate(data: bytes, count: int) -> Iterator[bytes]:
    """`count` random mutations of the data: bytes replaced, deleted or repeated, or the end cut off."""
    rng = random.Random(0)
    for _ in range(count):
        mutant = bytearray(data)
        for _ in range(rng.randint(1, 8)):
            if len(mutant) < 2:
                break
            a, b = sorted(rng.sample(range(len(mutant)), 2))
            kind = rng.randrange(4)
            if kind == 0:
                mutant[a] = rng.randrange(256)
            elif kind == 1:
                del mutant[a : min(b, a + 64)]
            elif kind == 2:
                mutant[a:a] = mutant[a : min(b, a + 64)]
            elif rng.random() < 0.2 and a > 16:
                del mutant[a:]
        yield bytes(mutant)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_mutated_images_are_answered(attacked: Server, kind: str) -> None:
    data = encode_photo(draw_marker((120, 90), (40, 30), 12), kind)
    counts = attack(attacked, mutate(data, 1000))
    assert sum(counts.values()) == 1000
    assert counts[200] > 10
    assert counts[422] > 10


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("multipart/form-data; boundary=x", MULTIPART % b"no image"),
        ("application/json", b'{"image": "bm8gaW1hZ2U="}'),
    ],
)
def test_mutated_envelopes_are_rejected(attacked: Server, content_type: str, body: bytes) -> None:
    for mutant in mutate(body, 500):
        answer = attacked.client.post("/predict", content=mutant, headers={"content-type": content_type})
        assert 400 <= answer.status_code < 500, answer.text


@pytest.mark.parametrize("with_length", [True, False])
def test_mutated_inference_requests_are_answered(attacked: Server, with_length: bool) -> None:
    """Mutates the JSON and the binary tensors after it, with and without the header that states the JSON's length."""
    image = encode_photo(draw_marker((60, 45), (20, 15), 6))
    head = (
        b'{"inputs":[{"name":"image","shape":[1],"datatype":"BYTES","parameters":{"binary_data_size":%d}}],'
        b'"outputs":[{"name":"cam","parameters":{"binary_data":true,"target":"red"}},{"name":"scores"}]}'
    ) % (len(image) + 4)
    body = head + len(image).to_bytes(4, "little") + image
    headers = {"inference-header-content-length": str(len(head))} if with_length else {}
    statuses = Counter[int]()
    for mutant in mutate(body, 500):
        answer = attacked.client.post("/v2/models/classification-squeeze/infer", content=mutant, headers=headers)
        assert answer.status_code == 200 or (400 <= answer.status_code < 500 and answer.json()["error"]), answer.text
        statuses[answer.status_code] += 1
    assert statuses[400] > 10
    assert (statuses[200] > 0) == with_length


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "BMP", "TIFF", "AVIF"])
def test_mutated_images_of_other_formats_are_answered(attacked: Server, kind: str) -> None:
    data = encode_photo(draw_marker((60, 45), (20, 15), 6), kind)
    assert sum(attack(attacked, mutate(data, 150)).values()) == 150


def test_every_png_of_pngsuite_is_answered(attacked: Server, shared: Path) -> None:
    files = sorted((shared / "images" / "odd" / "pngsuite").glob("*.png"))
    counts = attack(attacked, [file.read_bytes() for file in files])
    assert sum(counts.values()) == len(files) > 100
    broken = [file for file in files if file.name.startswith("x")]
    assert counts[200] >= len(files) - len(broken) - 1
    assert broken


@pytest.mark.parametrize("name", ["go-fuzz-corpus-images", "libjpeg-turbo-testimages"])
def test_every_file_of_a_fuzz_corpus_is_answered(attacked: Server, shared: Path, name: str) -> None:
    with tarfile.open(shared / "images" / "odd" / f"{name}.tar") as archive:
        bodies = [file.read() for member in archive.getmembers() if (file := archive.extractfile(member))]
    counts = attack(attacked, bodies)
    assert sum(counts.values()) == len(bodies)
