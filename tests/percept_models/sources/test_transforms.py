"""The input of networks from torchvision and timm: the pixels of these libraries' own transforms, bit for bit."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from percept.bundle.preprocessing import Preprocessing
from percept.imaging.decode import decode, decode_reduced
from percept.imaging.geometry import Pixels, compute_geometry
from percept.imaging.preprocess import prepare
from percept_models.sources.libraries import _timm_preprocessing, _torchvision_preprocessing, import_torchvision
from percept_models.sources.preprocessing import merge_preprocessing

torchvision = import_torchvision()
timm = pytest.importorskip("timm")

SIZES = [(640, 480), (333, 500), (501, 333), (257, 256), (224, 224), (150, 106), (90, 400), (3, 2), (1, 30)]
TORCHVISION: Mapping[str, Mapping[str, Any]] = {
    "ResNet": {"crop_size": 224, "resize_size": 256},
    "ResNet, second weights": {"crop_size": 224, "resize_size": 232},
    "ViT": {"crop_size": 384, "resize_size": 384, "interpolation": "bicubic"},
    "larger than the photo": {"crop_size": 225, "resize_size": 200},
    "nearest": {"crop_size": 64, "resize_size": 71, "interpolation": "nearest-exact"},
}
TIMM = {
    f"{mode} {height}x{width} of {share}": {
        "input_size": (3, height, width),
        "crop_mode": mode,
        "crop_pct": share,
        "interpolation": "bicubic",
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
    }
    for mode in ("center", "squash", "border")
    for height, width in ((224, 224), (128, 192), (193, 128))
    for share in (0.875, 0.95, 1.0)
}


def photos() -> Iterator[Image.Image]:
    """Noise in many sizes: every value of the input depends on the rounding of the size and of the crop."""
    rng = np.random.default_rng(0)
    for width, height in SIZES:
        yield Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8))


def preset(options: Mapping[str, Any]) -> Any:
    """The transform of weights of torchvision."""
    mode = torchvision.transforms.InterpolationMode(options.get("interpolation", "bilinear"))
    return torchvision.transforms._presets.ImageClassification(**{**options, "interpolation": mode})


def preset_pixels(transform: Any) -> Callable[[Image.Image], Pixels]:
    """The part of torchvision's transform before the normalization, which its mean and std invert exactly."""

    def pixels(photo: Image.Image) -> Pixels:
        transform.mean, transform.std = [0.0, 0.0, 0.0], [1.0, 1.0, 1.0]
        return (transform(photo) * 255).round().byte().permute(1, 2, 0).numpy()

    return pixels


def timm_pixels(config: Mapping[str, Any]) -> Callable[[Image.Image], Pixels]:
    """timm's transform without the normalization."""
    transform = timm.data.create_transform(**config, normalize=False)
    return lambda photo: transform(photo).permute(1, 2, 0).numpy()


def percept_pixels(photo: Image.Image, preprocessing: Preprocessing) -> Pixels:
    return prepare(photo, compute_geometry(photo.size, preprocessing), preprocessing)


@pytest.mark.parametrize("options", TORCHVISION.values(), ids=TORCHVISION)
def test_input_equals_that_of_torchvision(options: Mapping[str, Any]) -> None:
    preprocessing = _torchvision_preprocessing(preset(options))
    transform = preset_pixels(preset(options))
    for photo in photos():
        np.testing.assert_array_equal(percept_pixels(photo, preprocessing), transform(photo), str(photo.size))


@pytest.mark.parametrize("config", TIMM.values(), ids=TIMM)
def test_input_equals_that_of_timm(config: Mapping[str, Any]) -> None:
    preprocessing = _timm_preprocessing(config)
    transform = timm_pixels(config)
    for photo in photos():
        np.testing.assert_array_equal(percept_pixels(photo, preprocessing), transform(photo), str(photo.size))


def test_other_size_uses_the_crop_pct_of_timm() -> None:
    """303 pixels for 288 of 0.95: the 235 of 224 in proportion would be 302."""
    config = TIMM["center 224x224 of 0.95"]
    preprocessing = merge_preprocessing(_timm_preprocessing(config), {"height": 288, "width": 288}, 0.95)
    transform = timm_pixels({**config, "input_size": (3, 288, 288)})
    photo = next(photos())
    np.testing.assert_array_equal(percept_pixels(photo, preprocessing), transform(photo))


def test_segmenter_input_equals_that_of_torchvision() -> None:
    """torchvision resizes the short side to 520 and keeps the proportions, which a bundle of one size cannot."""
    transform = torchvision.transforms._presets.SemanticSegmentation(resize_size=520)
    preprocessing = merge_preprocessing(_torchvision_preprocessing(transform), {"height": 520, "width": 693})
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8))
    np.testing.assert_array_equal(percept_pixels(photo, preprocessing), preset_pixels(transform)(photo))


@pytest.mark.parametrize("library", ["torchvision", "timm"])
def test_photos_give_the_pixels_of_the_framework(shared: Path, library: str) -> None:
    """As it reads them itself, orientation applied: 100 photos, and some of 1800 x 1200 pixels."""
    files = [
        *sorted((shared / "images" / "imagenet").iterdir()),
        *sorted((shared / "images" / "exif").glob("*_[16].jpg")),
    ]
    config = TIMM["center 224x224 of 0.95"]
    if library == "timm":
        preprocessing, transform = _timm_preprocessing(config), timm_pixels(config)
    else:
        preprocessing, transform = (
            _torchvision_preprocessing(preset(TORCHVISION["ResNet"])),
            preset_pixels(preset(TORCHVISION["ResNet"])),
        )
    for file in files:
        decoded, geometry = decode_reduced(preprocessing, file.read_bytes(), 10**8, 10**8)
        expected = transform(ImageOps.exif_transpose(Image.open(file)).convert("RGB"))
        np.testing.assert_array_equal(prepare(decoded, geometry, preprocessing), expected, file.name)
    assert len(files) >= 100


def test_odd_images_give_the_pixels_of_the_framework(shared: Path) -> None:
    """Tiny and grey PNGs of every colour type, from the photo that Percept decodes."""
    preprocessing, transform = (
        _torchvision_preprocessing(preset(TORCHVISION["ResNet"])),
        preset_pixels(preset(TORCHVISION["ResNet"])),
    )
    files = [
        file
        for file in sorted((shared / "images" / "odd" / "pngsuite").rglob("*.png"))
        if not file.name.startswith("x")
    ]
    for file in files:
        photo = decode(file.read_bytes(), 10**8, 10**8)
        np.testing.assert_array_equal(percept_pixels(photo, preprocessing), transform(photo), file.name)
    assert len(files) > 100
