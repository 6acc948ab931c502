"""Activation maximization and feature inversion find the images that they should."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from percept_models.visualize.layer_response import noise_images
from percept_models.visualize.optimization import invert_features, maximize_channels
from percept_models.visualize.pictures import choose_channels
from tests.percept_models.networks import PREPROCESSING, export_bundle
from tests.percept_models.visualize.conftest import LAYERS, SIZE, layer_response


@pytest.mark.parametrize("order", ["RGB", "BGR"])
@pytest.mark.parametrize("layer", ["stem", "stage2"])
def test_maximum_activates_its_channel_more_than_noise(tmp_path: Path, layer: str, order: str) -> None:
    """Measured on the rounded pixels, for both channel orders."""
    preprocessing = PREPROCESSING.model_copy(update={"channels": order})
    response = layer_response(export_bundle(tmp_path, layers=LAYERS, preprocessing=preprocessing), layer)
    channels = choose_channels(response, 4)
    found = maximize_channels(response, channels, 48)
    assert found.dtype == np.uint8
    assert found.shape == (4, *SIZE, 3)
    means = response.channel_means(found)[range(4), channels]
    on_noise = response.channel_means(noise_images(response.image_shape))[:, channels]
    assert (means > on_noise.max(0) + 2 * on_noise.std(0)).all()


def test_early_layer_keeps_more_of_a_photo_than_a_deep_one(tmp_path: Path) -> None:
    """The inversion of the early layer is closer to the photo; both have the photo's activations."""
    folder = export_bundle(tmp_path, layers=LAYERS)
    height, width = SIZE
    small = Image.fromarray(noise_images((8, 6, 3))[0])
    photo = np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))
    correlations, errors = [], []
    for layer in ("stem", "stage2"):
        found, error = invert_features(layer_response(folder, layer), photo, 100)
        correlations.append(np.corrcoef(found.ravel(), photo.ravel())[0, 1])
        errors.append(error)
    assert correlations[0] > 0.7
    assert correlations[0] > correlations[1] + 0.2
    assert max(errors) < 0.02
