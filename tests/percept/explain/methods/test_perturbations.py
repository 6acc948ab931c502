"""The perturbation methods against their definitions, computed pass by pass."""

import numpy as np
import pytest

from percept.explain.maps import normalize
from percept.explain.methods import perturbations
from percept.explain.methods.perturbations import MAX_CELLS, MAX_CHANNELS
from percept.explain.methods.protocol import DEFAULT_BLANK, MethodInput
from percept.explain.methods.table import METHODS
from tests.percept.explain.synthetic_network import SyntheticNetwork

IMAGE_METHODS = [name for name, row in METHODS.items() if row.needs == "image"]
WHITE = (255.0, 255.0, 255.0)


def test_ablationcam_behind_average_pooling_weighs_by_weight_and_mean() -> None:
    network = SyntheticNetwork("linear")
    inputs = network.inputs(network.noise())
    expected = np.tensordot(network.w * inputs.A.mean((1, 2)) / abs(inputs.y), inputs.A, 1)
    np.testing.assert_allclose(network.compute_map("ablationcam", inputs), expected, rtol=1e-4, atol=1e-6)


def test_ablationcam_weighs_by_the_loss_of_each_channel() -> None:
    network = SyntheticNetwork()
    inputs = network.inputs(network.noise())
    found = np.zeros(inputs.A.shape[1:])
    for k, channel in enumerate(inputs.A):
        rest = inputs.A.copy()
        rest[k] = 0
        found += (inputs.y - network.y(rest[None])[0]) / abs(inputs.y) * channel
    np.testing.assert_allclose(network.compute_map("ablationcam", inputs), found, rtol=1e-4, atol=1e-5)


def test_ablationcam_does_not_depend_on_the_sign_of_y() -> None:
    """A constant in the logits changes the scale of the map and nothing else."""
    network = SyntheticNetwork()
    inputs = network.inputs(network.noise())
    network.b = -inputs.y - 5
    negative = normalize(network.compute_map("ablationcam", inputs))
    network.b = -inputs.y + 5
    positive = normalize(network.compute_map("ablationcam", inputs))
    np.testing.assert_allclose(negative, positive, atol=1e-4)


@pytest.mark.parametrize(("name", "passes"), [("ablationcam", 1 + 5), ("scorecam", 5)])
def test_channels_of_zeros_need_no_pass(name: str, passes: int) -> None:
    network = SyntheticNetwork(shape=(40, 4, 3))
    inputs = network.inputs(network.noise())
    inputs.A[5:] = 0
    network.compute_map(name, inputs)
    assert network.passes == passes


def test_ablationcam_compares_the_tail_with_itself() -> None:
    """The trunk may compute in lower precision, so its y must not enter any difference."""
    network = SyntheticNetwork()
    inputs = network.inputs(network.noise())
    other = MethodInput(inputs.A, inputs.pixels, inputs.y + 1, inputs.rng)
    np.testing.assert_array_equal(network.compute_map("ablationcam", inputs), network.compute_map("ablationcam", other))


def test_reciprocam_is_what_each_cell_alone_adds() -> None:
    network = SyntheticNetwork()
    inputs = network.inputs(network.noise())
    found = np.zeros(inputs.A.shape[1:])
    for i, j in np.ndindex(found.shape):
        alone = np.zeros_like(inputs.A)
        alone[:, i, j] = inputs.A[:, i, j]
        found[i, j] = network.y(alone[None])[0] - network.y(0 * alone[None])[0]
    np.testing.assert_allclose(network.compute_map("reciprocam", inputs), found, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("shape", [(2, 40, 41), (2, 3, 700), (2, 32, 32)])
def test_reciprocam_divides_large_layers_into_blocks(shape) -> None:
    network = SyntheticNetwork("linear", shape, scale=1)
    inputs = network.inputs(network.noise())
    found = network.compute_map("reciprocam", inputs)
    assert network.passes <= 1 + MAX_CELLS
    side = 1 if shape[1] == 32 else 2
    cells = network.compute_map("cam", inputs) / inputs.A[0].size
    for i, j in np.ndindex(-(-shape[1] // side), -(-shape[2] // side)):
        block = np.s_[i * side : (i + 1) * side, j * side : (j + 1) * side]
        np.testing.assert_allclose(found[block], cells[block].mean(), rtol=1e-2, atol=1e-4 * np.abs(cells).max())


def test_occlusion_is_what_each_patch_removes() -> None:
    network = SyntheticNetwork()
    pixels = network.noise()
    inputs = network.inputs(pixels, blank=WHITE)
    found = np.zeros(inputs.A.shape[1:])
    for i, j in np.ndindex(found.shape):
        hidden = pixels.copy()
        hidden[max(0, 4 * i - 2) : 4 * i + 6, max(0, 4 * j - 2) : 4 * j + 6] = 255
        found[i, j] = inputs.y - network.y(network.layer(hidden[None]))[0]
    np.testing.assert_allclose(network.compute_map("occlusion", inputs), found, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("shape", [(2, 40, 41), (2, 5, 60)])
def test_occlusion_has_at_most_16_positions_per_side(shape) -> None:
    network = SyntheticNetwork("linear", shape, scale=1)
    network.compute_map("occlusion", network.inputs(network.noise()))
    assert network.passes == min(16, shape[1]) * 16


def test_occlusion_patches_cover_every_pixel() -> None:
    network = SyntheticNetwork("linear", (2, 7, 5), scale=5)
    inputs = network.inputs(np.zeros_like(network.noise()), blank=WHITE)
    network.compute_map("occlusion", inputs)
    patches = network.images
    assert set(np.unique(patches)) == {0, 255}
    assert patches.max((0, 3)).min() == 255
    assert (patches.max((1, 2, 3)) == 255).all()


def test_scorecam_weighs_channels_by_their_masked_images() -> None:
    network = SyntheticNetwork(scale=1)  # so that masks are the channels themselves
    pixels = network.noise()
    inputs = network.inputs(pixels, blank=WHITE)
    y = []
    for channel in inputs.A:
        mask = (channel - channel.min()) / (channel.max() - channel.min())
        seen = np.rint(255 + (pixels - 255.0) * mask[:, :, None])
        y.append(network.y(network.layer(seen[None]))[0])
    power = np.exp(y)
    expected = np.tensordot(power / power.sum(), inputs.A, 1)
    np.testing.assert_allclose(network.compute_map("scorecam", inputs), expected, rtol=1e-4)


def test_scorecam_runs_the_strongest_channels_only() -> None:
    network = SyntheticNetwork(shape=(MAX_CHANNELS + 50, 4, 3))
    inputs = network.inputs(network.noise())
    order = np.argsort(-inputs.A.mean((1, 2)))
    found = network.compute_map("scorecam", inputs)
    assert network.passes == MAX_CHANNELS
    inputs.A[order[MAX_CHANNELS:]] = 0
    np.testing.assert_allclose(network.compute_map("scorecam", inputs), found, rtol=1e-5)


@pytest.mark.parametrize("blank", [DEFAULT_BLANK, WHITE, (1.0, 2.0, 3.0)])
@pytest.mark.parametrize("name", IMAGE_METHODS)
def test_masked_pixels_become_blank(name: str, blank) -> None:
    """Every pixel of a masked image lies between the image and the blank colour, and both occur."""
    network = SyntheticNetwork()
    inputs = network.inputs(network.noise(), blank=blank)
    network.compute_map(name, inputs)
    images = network.images.astype(float)
    low, high = np.minimum(inputs.pixels, blank), np.maximum(inputs.pixels, blank)
    assert (images >= np.floor(low)).all()
    assert (images <= np.ceil(high)).all()
    assert (np.abs(images - blank) <= 0.5).all(3).any()
    assert (images == inputs.pixels).all(3).any()


@pytest.mark.parametrize("name", IMAGE_METHODS)
def test_blank_colours_are_clipped_to_pixel_values(name: str) -> None:
    """The blank colour comes from the manifest, where it may be any mean."""
    network = SyntheticNetwork()
    beyond = network.compute_map(name, network.inputs(network.noise(), blank=(-9, 300, 5)))
    nearest = network.compute_map(name, network.inputs(network.noise(), blank=(0, 255, 5)))
    np.testing.assert_array_equal(beyond, nearest)


def test_rise_is_the_mean_of_weighted_masks() -> None:
    """A white image that fades to black shows the masks in its pixels."""
    network = SyntheticNetwork("linear", scale=8)
    white = np.full_like(network.noise(), 255)
    inputs = network.inputs(white, blank=(0, 0, 0))
    network.mix += 1  # or white would give activations of 0
    found = network.compute_map("rise", inputs)
    images = network.images
    masks = images[..., 0] / 255
    assert len(masks) == perturbations.MASKS
    assert 0.45 < masks.mean() < 0.55
    y = network.y(network.layer(images))
    cells = masks.reshape(len(masks), 4, 8, 3, 8).mean((2, 4))
    expected = np.tensordot(y - y.mean(), cells, 1) / len(masks) / 0.5
    np.testing.assert_allclose(found, expected, atol=0.01 * np.abs(expected).max())


def test_rise_covers_all_pixels_evenly() -> None:
    network = SyntheticNetwork("linear", (2, 6, 8), scale=8)
    inputs = network.inputs(np.full_like(network.noise(), 255), blank=(0, 0, 0))
    network.compute_map("rise", inputs)
    covered = network.images[..., 0].mean(0) / 255
    assert 0.35 < covered.min() < covered.max() < 0.65


def test_rise_shifts_its_masks() -> None:
    """Grids that are only enlarged would span at most 7 x 7 dimensions."""
    network = SyntheticNetwork("linear", (2, 6, 8), scale=8)
    network.compute_map("rise", network.inputs(np.full_like(network.noise(), 255), blank=(0, 0, 0)))
    masks = network.images[..., 0].reshape(perturbations.MASKS, -1)
    assert np.linalg.matrix_rank(masks.astype(float), tol=2000) > 7 * 7
