"""The methods on small networks written in NumPy, whose every answer can be computed another way."""

import re
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from percept.explain import gradient_methods, maps, perturbation_methods, protocol
from percept.explain.maps import normalize
from percept.explain.methods import METHODS, Method
from percept.explain.perturbation_methods import MAX_CELLS, MAX_CHANNELS
from percept.explain.protocol import (
    GREY,
    MAX_BATCH,
    MethodInput,
    NetworkRequest,
    PassRequest,
    PassResult,
    TailRequest,
    run_method,
)

LAST = [name for name, row in METHODS.items() if row.needs == "image"]
WHITE = (255.0, 255.0, 255.0)


class Network:
    """Pixels, colours mixed to C channels, ReLU, the mean of each cell: A. Then a seed on what its kind makes of A.

    `linear` takes the mean over the cells and weighs the channels; `deep` has a hidden layer of ReLUs over all of A.
    """

    def __init__(self, kind: str = "deep", shape: tuple[int, int, int] = (6, 4, 3), scale: int = 4) -> None:
        rng = np.random.default_rng(7)
        self.kind, self.shape, self.scale = kind, shape, scale
        C, n = shape[0], int(np.prod(shape))
        self.mix = rng.standard_normal((3, C))
        self.mix -= self.mix.mean(0)  # grey is nothing
        self.w, self.b = rng.standard_normal(C), 0.3
        self.W1, self.b1 = rng.standard_normal((n, 8)) / n**0.5, 0.1 * rng.standard_normal(8)
        self.W2 = rng.standard_normal(8)
        self.asks: list[PassRequest] = []

    def layer(self, pixels: np.ndarray) -> np.ndarray:
        n, (_, h, w) = len(pixels), self.shape
        mixed = np.maximum(pixels / 255 @ self.mix - 0.02, 0)
        return mixed.reshape(n, h, self.scale, w, self.scale, -1).mean((2, 4)).transpose(0, 3, 1, 2)

    def y(self, A: np.ndarray) -> np.ndarray:
        if self.kind == "linear":
            return A.mean((2, 3)) @ self.w + self.b
        return np.maximum(A.reshape(len(A), -1) @ self.W1 + self.b1, 0) @ self.W2 + self.b

    def g(self, A: np.ndarray) -> np.ndarray:
        if self.kind == "linear":
            return np.broadcast_to(self.w[:, None, None] / A[0, 0].size, A.shape)
        on = A.reshape(len(A), -1) @ self.W1 + self.b1 > 0
        return ((on * self.W2) @ self.W1.T).reshape(A.shape)

    def tail(self, ask: TailRequest) -> PassResult:
        assert ask.activations.shape[1:] == self.shape
        assert ask.activations.dtype == np.float32
        self.asks.append(ask)
        A = ask.activations.astype(np.float64)
        g = np.asarray(self.g(A), np.float32) if ask.gradients else None
        return PassResult(np.asarray(self.y(A), np.float32), g)

    def whole(self, ask: NetworkRequest) -> PassResult:
        assert ask.pixels.dtype == np.uint8
        self.asks.append(ask)
        return PassResult(np.asarray(self.y(self.layer(ask.pixels)), np.float32))

    def scene(self, pixels: np.ndarray, **more: object) -> MethodInput:
        A = np.asarray(self.layer(pixels[None]), np.float32)
        return MethodInput(A[0], pixels, float(self.y(A)[0]), np.random.default_rng(0), **more)

    def noise(self, seed: int = 0) -> np.ndarray:
        h, w = (n * self.scale for n in self.shape[1:])
        return np.random.default_rng(seed).integers(0, 256, (h, w, 3), np.uint8)

    def map(self, name: str, scene: MethodInput) -> np.ndarray:
        found = run_method(METHODS[name].run(scene), self.tail, self.whole)
        assert found.shape == scene.A.shape[1:]
        assert found.dtype == np.float32
        assert np.isfinite(found).all()
        return found


# Every method


@pytest.mark.parametrize("row", METHODS.values(), ids=METHODS)
def test_every_method_states_its_equation_and_its_paper(row: Method) -> None:
    first = row.run.__doc__.splitlines()[0]
    assert re.search(r": .*(sum_k|max_k|_ij =|M =|X v)", first), first
    paper, source = row.paper.split(", ")
    author, year = paper.split()
    assert re.search(rf"{author}.* {year}, {re.escape(source)}", row.run.__doc__)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("shape", [(6, 4, 3), (200, 3, 5), (2, 40, 41), (3, 1, 1)])
def test_a_method_asks_for_what_it_says_and_never_for_more_than_a_batch(name: str, shape) -> None:
    network = Network(shape=shape, scale=1 if shape[1] > 9 else 4)
    network.map(name, network.scene(network.noise()))
    expected = {
        "activations": set(),
        "gradients": {(TailRequest, True)},
        "tail": {(TailRequest, False)},
        "image": {(NetworkRequest, None)},
    }
    assert {(type(a), getattr(a, "gradients", None)) for a in network.asks} == expected[METHODS[name].needs]
    sizes = [len(a.activations if isinstance(a, TailRequest) else a.pixels) for a in network.asks]
    assert all(0 < n <= MAX_BATCH for n in sizes)


@pytest.mark.parametrize("name", METHODS)
def test_a_method_can_be_closed_wherever_it_waits(name: str) -> None:
    network = Network()
    scene = network.scene(network.noise())
    run_method(METHODS[name].run(scene), network.tail, network.whole)
    for waits in range(len(network.asks) + 1):
        look = METHODS[name].run(scene)
        ask = next(look) if waits else None
        for _ in range(waits - 1):
            ask = look.send(network.tail(ask) if isinstance(ask, TailRequest) else network.whole(ask))
        look.close()
        with pytest.raises(StopIteration):
            next(look)


@pytest.mark.parametrize("kind", ["linear", "deep"])
@pytest.mark.parametrize("name", METHODS)
def test_a_picture_of_nothing_gives_a_finite_map(name: str, kind: str) -> None:
    network = Network(kind)
    grey = np.full_like(network.noise(), 128)
    scene = network.scene(grey)
    assert not scene.A.any()
    network.map(name, scene)
    for flat in (1, 1e-9, -3):
        A = np.full_like(scene.A, flat)
        network.map(name, MethodInput(A, grey, 0, np.random.default_rng(0)))


@pytest.mark.parametrize("name", METHODS)
def test_no_method_changes_what_it_was_given(name: str) -> None:
    network = Network()
    pixels = network.noise()
    scene, same = network.scene(pixels), network.scene(pixels.copy())
    for array in (scene.A, scene.pixels):
        array.setflags(write=False)
    first = network.map(name, scene)
    np.testing.assert_array_equal(first, network.map(name, same))


@pytest.mark.parametrize("name", METHODS)
def test_a_map_is_about_the_target_or_says_that_it_is_not(name: str) -> None:
    network, other = Network(), Network()
    other.W2 = -network.W2[::-1] + 1
    pixels = network.noise()
    found = [n.map(name, n.scene(pixels)) for n in (network, other)]
    assert np.allclose(*found) != METHODS[name].class_specific


def test_the_ends_of_a_run_are_its_asks_and_its_map() -> None:
    def look() -> Iterator[PassRequest]:
        first = yield TailRequest(np.zeros((1, 1, 1, 1), np.float32), gradients=True)
        second = yield NetworkRequest(np.zeros((2, 1, 1, 3), np.uint8))
        return np.append(first.y, second.y)

    found = run_method(
        look(), lambda ask: PassResult(np.array([1.0])), lambda ask: PassResult(np.array([2.0, len(ask.pixels)]))
    )
    np.testing.assert_array_equal(found, [1, 2, 2])


# What must come out where the tail is linear


@pytest.mark.parametrize("shape", [(6, 4, 3), (4, 7, 7), (1, 1, 5)])
@pytest.mark.parametrize("name", ["gradcam", "hirescam", "integrated_gradients", "reciprocam"])
def test_behind_average_pooling_many_methods_are_cam_over_the_cells(name: str, shape) -> None:
    network = Network("linear", shape)
    scene = network.scene(network.noise())
    expected = network.map("cam", scene) / scene.A[0].size
    np.testing.assert_allclose(network.map(name, scene), expected, rtol=1e-4, atol=2e-6 * np.abs(expected).max() + 1e-7)


def test_behind_average_pooling_a_channel_is_worth_its_weight_times_its_mean() -> None:
    network = Network("linear")
    scene = network.scene(network.noise())
    expected = np.tensordot(network.w * scene.A.mean((1, 2)) / abs(scene.y), scene.A, 1)
    np.testing.assert_allclose(network.map("ablationcam", scene), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["reciprocam", "ablationcam", "integrated_gradients"])
def test_where_the_tail_is_linear_one_pass_tells_all_others(name: str) -> None:
    network = Network("linear")
    long, short = (network.scene(network.noise(), linear=linear) for linear in (False, True))
    expected = network.map(name, long)
    network.asks.clear()
    np.testing.assert_allclose(network.map(name, short), expected, rtol=1e-4, atol=2e-6 * np.abs(expected).max())
    assert len(network.asks) == 1


def test_where_gradients_are_the_same_everywhere_noise_changes_nothing() -> None:
    network = Network("linear")
    scene = network.scene(network.noise())
    np.testing.assert_allclose(network.map("smoothgrad", scene), network.map("saliency", scene), rtol=1e-5)


# Against the definition, on the deep network


@settings(max_examples=25)
@given(st.integers(0, 9999))
def test_integrated_gradients_add_up_to_what_the_activations_changed(seed: int) -> None:
    network = Network()
    scene = network.scene(network.noise(seed))
    gained = scene.y - network.y(np.zeros_like(scene.A)[None])[0]
    size = np.abs(scene.A * network.g(scene.A[None])[0]).sum()
    assert abs(network.map("integrated_gradients", scene).sum() - gained) < 0.01 * max(size, abs(gained))


def test_integrated_gradients_are_the_integral() -> None:
    network = Network()
    scene = network.scene(network.noise())
    A = scene.A.astype(np.float64)
    path = (np.arange(20000) + 0.5)[:, None, None, None] / 20000 * A
    expected = (A * network.g(path).mean(0)).sum(0)
    np.testing.assert_allclose(network.map("integrated_gradients", scene), expected, atol=0.02 * np.abs(expected).max())


def test_ablationcam_is_what_is_lost_with_each_channel() -> None:
    network = Network()
    scene = network.scene(network.noise())
    found = np.zeros(scene.A.shape[1:])
    for k, channel in enumerate(scene.A):
        rest = scene.A.copy()
        rest[k] = 0
        found += (scene.y - network.y(rest[None])[0]) / abs(scene.y) * channel
    np.testing.assert_allclose(network.map("ablationcam", scene), found, rtol=1e-4, atol=1e-5)


def test_ablationcam_says_the_same_where_y_is_negative() -> None:
    """What makes y greater is hot whichever sign y has: a constant in the logits changes the scale only."""
    network = Network()
    scene = network.scene(network.noise())
    found = []
    for network.b in (-scene.y - 5, -scene.y + 5):
        found.append(normalize(network.map("ablationcam", scene)))
    np.testing.assert_allclose(*found, atol=1e-4)


@pytest.mark.parametrize(("name", "asked"), [("ablationcam", 1 + 5), ("scorecam", 5)])
def test_channels_that_are_not_there_are_not_asked_about(name: str, asked: int) -> None:
    network = Network(shape=(40, 4, 3))
    scene = network.scene(network.noise())
    scene.A[5:] = 0
    network.map(name, scene)
    assert sum(len(a.activations if isinstance(a, TailRequest) else a.pixels) for a in network.asks) == asked


def test_ablationcam_compares_the_tail_with_itself() -> None:
    """The trunk may compute in fewer bits: what it says of y is no part of any difference."""
    network = Network()
    scene = network.scene(network.noise())
    other = MethodInput(scene.A, scene.pixels, scene.y + 1, scene.rng)
    np.testing.assert_array_equal(network.map("ablationcam", scene), network.map("ablationcam", other))


def test_reciprocam_is_what_each_cell_alone_adds() -> None:
    network = Network()
    scene = network.scene(network.noise())
    found = np.zeros(scene.A.shape[1:])
    for i, j in np.ndindex(found.shape):
        alone = np.zeros_like(scene.A)
        alone[:, i, j] = scene.A[:, i, j]
        found[i, j] = network.y(alone[None])[0] - network.y(0 * alone[None])[0]
    np.testing.assert_allclose(network.map("reciprocam", scene), found, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("shape", [(2, 40, 41), (2, 3, 700), (2, 32, 32)])
def test_reciprocam_of_many_cells_asks_about_blocks(shape) -> None:
    network = Network("linear", shape, scale=1)
    scene = network.scene(network.noise())
    found = network.map("reciprocam", scene)
    assert sum(len(ask.activations) for ask in network.asks) <= 1 + MAX_CELLS
    side = 1 if shape[1] == 32 else 2
    cells = network.map("cam", scene) / scene.A[0].size
    for i, j in np.ndindex(-(-shape[1] // side), -(-shape[2] // side)):
        block = np.s_[i * side : (i + 1) * side, j * side : (j + 1) * side]
        np.testing.assert_allclose(found[block], cells[block].mean(), rtol=1e-2, atol=1e-4 * np.abs(cells).max())


@pytest.mark.parametrize("name", ["reciprocam", "ablationcam", "integrated_gradients", "smoothgrad"])
def test_asks_of_great_activations_hold_fewer_rows(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    network = Network()
    scene = network.scene(network.noise())
    expected = network.map(name, scene)
    for most, rows in ((3 * scene.A.nbytes, 3), (1, 1)):
        monkeypatch.setattr(protocol, "MAX_BATCH_BYTES", most)
        network.asks.clear()
        scene = network.scene(network.noise())
        np.testing.assert_allclose(network.map(name, scene), expected, rtol=1e-5, atol=1e-6)
        assert max(len(ask.activations) for ask in network.asks) == rows


def test_saliency_and_smoothgrad_without_noise_are_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gradient_methods, "NOISE", 0)
    network = Network()
    scene = network.scene(network.noise())
    np.testing.assert_allclose(network.map("smoothgrad", scene), network.map("saliency", scene), rtol=1e-5)


def test_smoothgrad_is_the_mean_of_noisy_saliencies() -> None:
    network = Network()
    scene = network.scene(network.noise())
    rng, sigma = np.random.default_rng(0), 0.15 * (scene.A.max() - scene.A.min())
    noisy = [scene.A + sigma * rng.standard_normal(scene.A.shape, np.float32) for _ in range(gradient_methods.SAMPLES)]
    expected = np.mean([maps.saliency(A, network.g(A[None].astype(np.float64))[0]) for A in noisy], 0)
    np.testing.assert_allclose(network.map("smoothgrad", scene), expected, rtol=1e-4)


# Against the definition, by the image


def marked(network: Network, i: int, j: int) -> np.ndarray:
    """A grey picture with one cell of the colour that the linear network likes best."""
    pixels = np.full_like(network.noise(), 120)
    colours = np.array(list(np.ndindex(2, 2, 2))) * 255
    best = (np.maximum(colours @ network.mix, 0) @ network.w).argmax()
    s = network.scale
    pixels[i * s : (i + 1) * s, j * s : (j + 1) * s] = colours[best]
    return pixels


SEEING = [name for name in METHODS if name not in ("saliency", "smoothgrad")]  # of a constant gradient they see nothing


@pytest.mark.parametrize("place", [(0, 0), (3, 5), (7, 6)])
@pytest.mark.parametrize("name", SEEING)
def test_a_marker_is_found(name: str, place: tuple[int, int]) -> None:
    """All of the map's peak lies on it, or for patches and random masks of greater grain beside it."""
    network = Network("linear", (6, 8, 7))
    network.w = np.abs(network.w)
    scene = network.scene(marked(network, *place), blank=(120, 120, 120))
    found = network.map(name, scene)
    peak = np.unravel_index(found.argmax(), found.shape)
    assert np.abs(np.subtract(peak, place)).max() <= (1 if name in ("occlusion", "rise") else 0)
    assert found[place] > 0.9 * found.max() > 0


def test_occlusion_is_what_is_lost_under_each_patch() -> None:
    network = Network()
    pixels = network.noise()
    scene = network.scene(pixels, blank=WHITE)
    found = np.zeros(scene.A.shape[1:])
    for i, j in np.ndindex(found.shape):
        hidden = pixels.copy()
        hidden[max(0, 4 * i - 2) : 4 * i + 6, max(0, 4 * j - 2) : 4 * j + 6] = 255
        found[i, j] = scene.y - network.y(network.layer(hidden[None]))[0]
    np.testing.assert_allclose(network.map("occlusion", scene), found, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("shape", [(2, 40, 41), (2, 5, 60)])
def test_occlusion_of_many_cells_has_at_most_16_positions_along_a_side(shape) -> None:
    network = Network("linear", shape, scale=1)
    network.map("occlusion", network.scene(network.noise()))
    assert sum(len(ask.pixels) for ask in network.asks) == min(16, shape[1]) * 16


def test_every_pixel_is_under_some_patch() -> None:
    network = Network("linear", (2, 7, 5), scale=5)
    scene = network.scene(np.zeros_like(network.noise()), blank=WHITE)
    network.map("occlusion", scene)
    patches = np.concatenate([ask.pixels for ask in network.asks])
    assert set(np.unique(patches)) == {0, 255}
    assert patches.max((0, 3)).min() == 255
    assert (patches.max((1, 2, 3)) == 255).all()


def test_scorecam_weighs_channels_by_what_is_seen_through_them() -> None:
    network = Network(scale=1)  # so that masks are the channels themselves
    pixels = network.noise()
    scene = network.scene(pixels, blank=WHITE)
    y = []
    for channel in scene.A:
        mask = (channel - channel.min()) / (channel.max() - channel.min())
        seen = np.rint(255 + (pixels - 255.0) * mask[:, :, None])
        y.append(network.y(network.layer(seen[None]))[0])
    power = np.exp(y)
    expected = np.tensordot(power / power.sum(), scene.A, 1)
    np.testing.assert_allclose(network.map("scorecam", scene), expected, rtol=1e-4)


def test_scorecam_asks_about_the_strongest_channels_only() -> None:
    network = Network(shape=(MAX_CHANNELS + 50, 4, 3))
    scene = network.scene(network.noise())
    order = np.argsort(-scene.A.mean((1, 2)))
    found = network.map("scorecam", scene)
    assert sum(len(ask.pixels) for ask in network.asks) == MAX_CHANNELS
    scene.A[order[MAX_CHANNELS:]] = 0
    np.testing.assert_allclose(network.map("scorecam", scene), found, rtol=1e-5)


@pytest.mark.parametrize("blank", [GREY, WHITE, (1.0, 2.0, 3.0)])
@pytest.mark.parametrize("name", LAST)
def test_what_is_masked_is_blank(name: str, blank) -> None:
    """Every pixel that is asked about lies between the image and the blank colour, and both occur."""
    network = Network()
    scene = network.scene(network.noise(), blank=blank)
    network.map(name, scene)
    asked = np.concatenate([ask.pixels for ask in network.asks]).astype(float)
    low, high = np.minimum(scene.pixels, blank), np.maximum(scene.pixels, blank)
    assert (asked >= np.floor(low)).all()
    assert (asked <= np.ceil(high)).all()
    assert (np.abs(asked - blank) <= 0.5).all(3).any()
    assert (asked == scene.pixels).all(3).any()


@pytest.mark.parametrize("name", LAST)
def test_a_blank_colour_that_no_pixel_can_have_is_the_nearest_that_one_can(name: str) -> None:
    """A mean is whatever a manifest says."""
    network = Network()
    found = [network.map(name, network.scene(network.noise(), blank=b)) for b in ((-9, 300, 5), (0, 255, 5))]
    np.testing.assert_array_equal(*found)


def test_rise_is_the_mean_of_masks_weighed_by_what_is_seen_through_them() -> None:
    """A white picture fading to black shows its masks in its pixels; the mean of y is taken away."""
    network = Network("linear", scale=8)
    white = np.full_like(network.noise(), 255)
    scene = network.scene(white, blank=(0, 0, 0))
    network.mix += 1  # or white would be nothing
    found = network.map("rise", scene)
    asked = np.concatenate([ask.pixels for ask in network.asks])
    masks = asked[..., 0] / 255
    assert len(masks) == perturbation_methods.MASKS
    assert 0.45 < masks.mean() < 0.55
    y = network.y(network.layer(asked))
    cells = masks.reshape(len(masks), 4, 8, 3, 8).mean((2, 4))
    expected = np.tensordot(y - y.mean(), cells, 1) / len(masks) / 0.5
    np.testing.assert_allclose(found, expected, atol=0.01 * np.abs(expected).max())


def test_rise_covers_every_pixel_alike() -> None:
    network = Network("linear", (2, 6, 8), scale=8)
    scene = network.scene(np.full_like(network.noise(), 255), blank=(0, 0, 0))
    network.map("rise", scene)
    covered = np.concatenate([ask.pixels for ask in network.asks])[..., 0].mean(0) / 255
    assert 0.35 < covered.min() < covered.max() < 0.65


def test_masks_of_rise_are_shifted() -> None:
    """Grids that are only enlarged would be sums of no more than their own 7 x 7 pictures."""
    network = Network("linear", (2, 6, 8), scale=8)
    network.map("rise", network.scene(np.full_like(network.noise(), 255), blank=(0, 0, 0)))
    masks = np.concatenate([ask.pixels for ask in network.asks])[..., 0].reshape(perturbation_methods.MASKS, -1)
    assert np.linalg.matrix_rank(masks.astype(float), tol=2000) > 7 * 7
