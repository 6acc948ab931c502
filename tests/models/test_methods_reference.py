"""Every method that pytorch-grad-cam has too, asked in Percept's way of an ONNX tail, against its maps.

Where the two differ on purpose the reference is first seen to differ, and then, with that one thing changed, to agree.
"""

from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

from models.autodiff import LOGITS, tail
from models.graph import Array, Graph
from models.trunk import PIXELS, Trunk, trace
from models.verify import LIMIT, difference
from service.cam import fuse, unit
from service.image import geometry, spread
from service.manifest import Preprocessing
from service.methods import CHANNELS, METHODS, Answer, Scene, Tail, Whole, drive
from service.session import Session
from tests.models.networks import Classifier, settled
from tests.models.reference import _SeedTarget, grad_cam, scaled
from tests.models.test_oracle import tapped, zoo

MAP_LIMIT = 1e-4
# Whole numbers, so that the blank colour is the network's zero in pixels too.
MEAN, STD = (120.0, 115.0, 100.0), (60.0, 61.0, 62.0)
NAMES = {
    "gradcam": "GradCAM",
    "gradcam++": "GradCAMPlusPlus",
    "xgradcam": "XGradCAM",
    "hirescam": "HiResCAM",
    "layercam": "LayerCAM",
    "eigencam": "EigenCAM",
    "eigengradcam": "EigenGradCAM",
    "ablationcam": "AblationCAM",
    "scorecam": "ScoreCAM",
}


class Row(NamedTuple):
    """A network, the size of its picture, and its layers, the first of at most `CHANNELS` channels."""

    make: Callable[[], nn.Module]
    size: int
    layers: tuple[str, ...]


ROWS = {
    "squeezenet": Row(zoo("squeezenet1_1"), 65, ("features.4", "features.12")),
    "resnet": Row(zoo("resnet18"), 64, ("layer2", "layer4")),
}
SIGNED = Row(Classifier, 32, ("stage1.body.2",))  # can be negative, and is added to something before its ReLU


class Subject:
    """A network with random weights, one picture, and a seed by which y is positive."""

    def __init__(self, row: Row) -> None:
        torch.manual_seed(0)
        network = settled(row.make(), row.size)
        self.row = row
        self.how = Preprocessing(height=row.size, width=row.size, mean=MEAN, std=STD)
        model = trace(network, self.how, row.layers)
        self.network = Trunk(network, self.how, ()).network
        cut = {layer: tail(Graph(model), layer) for layer in row.layers}
        self.tails = {layer: (Session(one.SerializeToString()), names) for layer, (one, names) in cut.items()}
        crossing = tuple(name for _, names in self.tails.values() for name in names)
        self.trunk = Session(tapped(model, crossing).SerializeToString())
        self.pixels = np.random.default_rng(3).integers(0, 256, (row.size, row.size, 3), np.uint8)
        self.seen = self.trunk.run({PIXELS: self.pixels[None]}, list(self.trunk.outputs))
        self.seed = np.random.default_rng(4).normal(size=self.seen[LOGITS].shape).astype(np.float32)
        self.seed *= np.sign((self.seed * self.seen[LOGITS]).sum())

    def raw(self, method: str, layer: str, seed: Array | None = None) -> Array:
        """Percept's map before ReLU."""
        seed = self.seed if seed is None else seed
        session, crossing = self.tails[layer]

        def by_tail(ask: Tail) -> Answer:
            other = {"seed": seed} | {name: self.seen[name] for name in crossing}
            feeds = {name: np.repeat(one, len(ask.activations), 0) for name, one in other.items()}
            found = session.run({"activations": ask.activations, **feeds}, ["logits", "gradients"])
            return Answer((seed * found["logits"]).sum(1), found["gradients"] if ask.gradients else None)

        def by_trunk(ask: Whole) -> Answer:
            return Answer((seed * self.trunk.run({PIXELS: ask.pixels}, [LOGITS])[LOGITS]).sum(1))

        y = float((seed * self.seen[LOGITS]).sum())
        scene = Scene(self.seen[layer][0], self.pixels, y, np.random.default_rng(0), MEAN)
        return drive(METHODS[method].run(scene), by_tail, by_trunk)

    def shown(self, raw: Array) -> Array:
        """Percept's final map, as large as the picture."""
        return scaled(spread(unit(raw), geometry((self.row.size, self.row.size), self.how)))

    def truth(self, method: str, *layers: str, seed: Array | None = None, rounded: bool = False, **more: Any) -> Array:
        """The reference's final map; `rounded` lets its network see whole pixels only, as Percept's does."""
        network = nn.Sequential(Rounding(), self.network) if rounded else self.network
        targets = [self.network.get_submodule(layer) for layer in layers]
        with getattr(grad_cam(), NAMES[method])(model=network, target_layers=targets, **more) as cam:
            found = cam(input_tensor=self.input, targets=[_SeedTarget((self.seed if seed is None else seed)[0])])[0]
            for layer, A in zip(layers, cam.activations_and_grads.activations, strict=False):
                assert difference(self.seen[layer], A.numpy()) < LIMIT
        return found

    @cached_property
    def input(self) -> torch.Tensor:
        """What the torch network takes for the picture, [1,3,H,W]."""
        x = (torch.from_numpy(self.pixels).float() - torch.tensor(MEAN)) / torch.tensor(STD)
        return x.permute(2, 0, 1)[None].contiguous()


class Rounding(nn.Module):
    """A normalised picture as if it had been made of whole pixels."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute the output."""
        mean, std = (torch.tensor(v)[:, None, None] for v in (MEAN, STD))
        return ((x * std + mean).round() - mean) / std


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Small networks gain nothing by a second one, and wait for it where somebody else computes."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", params=ROWS)
def subject(request: pytest.FixtureRequest) -> Subject:
    return Subject(ROWS[request.param])


def apart(found: Array, expected: Array) -> float:
    """The greatest difference of two final maps, neither of which may be empty."""
    assert found.any()
    assert expected.any()
    return float(np.abs(found - expected).max())


def test_every_method_of_both_is_compared() -> None:
    ours = {name.replace("_", "").replace("+", "plus") for name in METHODS}
    theirs = {name.lower() for name in dir(grad_cam()) if name.endswith(("CAM", "PlusPlus"))}
    assert {name.lower() for name in NAMES.values()} == ours & theirs
    assert set(NAMES) <= set(METHODS)


@pytest.mark.parametrize("method", [name for name in NAMES if not name.startswith(("eigen", "score"))])
def test_maps_are_those_of_the_reference(subject: Subject, method: str) -> None:
    for layer in subject.row.layers:
        assert apart(subject.shown(subject.raw(method, layer)), subject.truth(method, layer)) < MAP_LIMIT, layer


@pytest.mark.parametrize("method", ["eigencam", "eigengradcam"])
def test_eigenmaps_are_those_of_the_reference_or_their_negative(subject: Subject, method: str) -> None:
    """Its sign is whichever LAPACK gives."""
    for layer in subject.row.layers:
        raw, truth = subject.raw(method, layer), subject.truth(method, layer)
        assert min(apart(subject.shown(one), truth) for one in (raw, -raw)) < MAP_LIMIT, layer


def test_scorecam_of_the_reference_enlarges_its_masks_past_the_edges(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It lays the centres of a mask's outer cells on the edges of the picture; ours lie half a cell inside of them.

    That apart, and the rounding of masked pixels, the maps are the same, up to pixels that lie between two numbers.
    """
    layer = subject.row.layers[0]
    assert subject.seen[layer].shape[1] <= CHANNELS
    ours = subject.shown(subject.raw("scorecam", layer))
    aligned = apart(ours, subject.truth("scorecam", layer, rounded=True))
    monkeypatch.setattr(nn, "UpsamplingBilinear2d", lambda size: nn.Upsample(size, mode="bilinear"))
    assert apart(ours, subject.truth("scorecam", layer, rounded=True)) < 3 * MAP_LIMIT < aligned / 10
    assert apart(ours, subject.truth("scorecam", layer)) < 0.05


def test_ablationcam_of_the_reference_does_not_ablate_to_nothing_where_activations_are_negative() -> None:
    """There it sets a channel to less than -1e7. With the paper's zeros the maps are the same."""
    subject = Subject(SIGNED)
    (layer,) = subject.row.layers
    assert subject.seen[layer].min() < 0
    ours = subject.shown(subject.raw("ablationcam", layer))
    assert apart(ours, subject.truth("ablationcam", layer)) > 0.1
    assert apart(ours, subject.truth("ablationcam", layer, ablation_layer=zeroing())) < MAP_LIMIT


def test_ablationcam_of_the_reference_turns_over_where_y_is_negative(subject: Subject) -> None:
    """Asked for the opposite it gives the same map; Percept gives the opposite."""
    layer, seed = subject.row.layers[0], -subject.seed
    assert apart(subject.truth("ablationcam", layer, seed=seed), subject.truth("ablationcam", layer)) < MAP_LIMIT
    opposite = subject.raw("ablationcam", layer, seed)
    np.testing.assert_allclose(opposite, -subject.raw("ablationcam", layer), rtol=1e-3, atol=1e-4 * opposite.max())


def test_layers_are_fused_as_in_the_reference(subject: Subject) -> None:
    """But at the size of the finest layer, where it works at the size of the picture."""
    maps = [unit(subject.raw("gradcam", layer)) for layer in subject.row.layers]
    found, expected = subject.shown(fuse(maps)), subject.truth("gradcam", *subject.row.layers)
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.98


def zeroing() -> nn.Module:
    """The reference's layer that takes a channel away, by zeros."""

    class Zeroing(grad_cam().AblationLayer):
        def __call__(self, x: torch.Tensor) -> torch.Tensor:
            for row, k in zip(self.activations, self.indices, strict=False):
                row[k] = 0
            return self.activations

    return Zeroing()
