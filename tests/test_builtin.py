"""The built-in bundles: they keep what their manifests promise, on the data and on real photos."""

import io
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from percept.bundle.manifest import Manifest, read
from percept.settings import BUILT_IN
from tests.photos import encoded, marked

LIMIT_MB = {"cifar10": 12, "clothing": 24}
# Photos of ../shared/images that show classes of CIFAR-10, and the class that each shows.
PHOTOS = {
    "imagenet/010_brambling.JPEG": "bird",
    "imagenet/020_water_ouzel.JPEG": "bird",
    "imagenet/030_bullfrog.JPEG": "frog",
    "imagenet/080_black_grouse.JPEG": "bird",
    "imagenet/090_lorikeet.JPEG": "bird",
    "imagenet/100_black_swan.JPEG": "bird",
    "imagenet/130_flamingo.JPEG": "bird",
    "imagenet/140_red-backed_sandpiper.JPEG": "bird",
    "imagenet/160_Afghan_hound.JPEG": "dog",
    "imagenet/170_Irish_wolfhound.JPEG": "dog",
    "imagenet/180_American_Staffordshire_terrier.JPEG": "dog",
    "imagenet/190_Sealyham_terrier.JPEG": "dog",
    "imagenet/200_Tibetan_terrier.JPEG": "dog",
    "imagenet/210_German_short-haired_pointer.JPEG": "dog",
    "imagenet/220_Sussex_spaniel.JPEG": "dog",
    "imagenet/230_Shetland_sheepdog.JPEG": "dog",
    "imagenet/240_Appenzeller.JPEG": "dog",
    "imagenet/250_Siberian_husky.JPEG": "dog",
    "imagenet/260_chow.JPEG": "dog",
    "imagenet/510_container_ship.JPEG": "ship",
    "imagenet/780_schooner.JPEG": "ship",
    "coral_cat.bmp": "cat",
    "segmentation/coral_bird_segmentation.bmp": "bird",
    "segmentation/coral_dog_segmentation.bmp": "dog",
}


@pytest.fixture(scope="module")
def client(start) -> httpx.Client:
    return start().client


@pytest.fixture(scope="module", params=LIMIT_MB)
def manifest(request: pytest.FixtureRequest) -> Manifest:
    return read(BUILT_IN / request.param / "1")


def test_the_weights_are_small(manifest: Manifest) -> None:
    files = [BUILT_IN / manifest.name / "1" / name for name in manifest.files]
    assert sum(file.stat().st_size for file in files) < LIMIT_MB[manifest.name] * 2**20


def test_provenance_is_complete(manifest: Manifest) -> None:
    provenance = manifest.provenance
    assert all([provenance.source, provenance.weights, provenance.license, provenance.data])
    assert set(provenance.metrics) == {"cifar10": {"top1"}, "clothing": {"mean_iou", "foreground_iou"}}[manifest.name]


def test_every_layer_has_gradients(manifest: Manifest) -> None:
    assert all(layer.tail for layer in manifest.layers)


def test_the_classifier_answers_without_a_model_named(client: httpx.Client) -> None:
    answer = client.post("/predict", content=encoded(marked((40, 30), (9, 9), 4))).json()
    assert answer["model"] == {"name": "cifar10", "version": 1, "task": "classification"}


@pytest.fixture(scope="module")
def recognised(client: httpx.Client, shared: Path) -> float:
    """The share of the photos whose top class is right."""
    hits = 0
    for name, label in PHOTOS.items():
        answer = client.post("/predict", content=(shared / "images" / name).read_bytes()).json()
        hits += answer["predictions"][0]["label"] == label
    return hits / len(PHOTOS)


@pytest.mark.xfail(reason="the weights of version 1 reach 18 of 24; train further", strict=True)
def test_eight_of_ten_real_photos_are_recognised(recognised: float) -> None:
    assert recognised >= 0.8


def test_no_fewer_real_photos_are_recognised_than_were(recognised: float) -> None:
    assert recognised >= 18 / 24


def test_clothes_are_segmented_where_they_are(client: httpx.Client, shared: Path) -> None:
    data = shared / "data" / "clothing"
    for name in (data / "test.txt").read_text().split()[:8]:
        photo = (data / "images" / f"{name}.jpg").read_bytes()
        truth = np.asarray(Image.open(data / "masks" / f"{name}.png"))
        answer = client.post("/predict?model=clothing&format=png", content=photo)
        mask = np.asarray(Image.open(io.BytesIO(answer.content)))
        assert mask.shape == truth.shape
        seen = truth != 255
        both = ((mask > 0) & (truth > 0) & seen).sum()
        either = (((mask > 0) | (truth > 0)) & seen).sum()
        assert both / either > 0.7


def test_a_heatmap_lies_on_what_is_explained(client: httpx.Client, shared: Path) -> None:
    """For the segmenter: most of the heat for hair, say, is on hair."""
    data = shared / "data" / "clothing"
    name = (data / "test.txt").read_text().split()[0]
    photo = (data / "images" / f"{name}.jpg").read_bytes()
    truth = np.asarray(Image.open(data / "masks" / f"{name}.png"))
    answer = client.post("/cam?model=clothing&target=hair&format=npy&size=photo&scale=unit", content=photo)
    heat = np.load(io.BytesIO(answer.content))
    assert heat.shape == truth.shape
    hair = truth == 1
    assert heat[hair].mean() > 5 * heat[~hair].mean()


@pytest.mark.prove
def test_the_metrics_of_the_manifest_are_those_of_the_bundle(manifest: Manifest, shared: Path) -> None:
    from percept_models.training.recipes import RECIPES, served

    found = RECIPES[manifest.name].measure(served(BUILT_IN / manifest.name / "1"), shared / "data" / manifest.name)
    assert found == pytest.approx(manifest.provenance.metrics, abs=2e-3)
