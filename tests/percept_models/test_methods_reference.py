"""Every method that pytorch-grad-cam has too, asked in Percept's way of an ONNX tail, against its maps.

Where the two differ on purpose the reference is first seen to differ, and then, with that one thing changed, to agree.
Most networks run under `make prove` only: each takes seconds to trace.
"""

import copy
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import pytest
import torch
from torch import nn

from percept.explain.maps import GRADIENT_METHODS, fuse, normalize
from percept.explain.methods import METHODS
from percept.explain.perturbation_methods import MAX_CHANNELS
from percept.runtime.session import Session
from percept_models.sources.trunk import PIXELS, trace
from percept_models.verify.checks import GRADIENT_LIMIT
from tests.percept_models.subject import NAMES, QUICK, ROWS, SEGMENTERS, TRAPS, Rounding, Subject, apart, zeroing
from tests.percept_models.torch_gradients import _SeedTarget, grad_cam, scaled

MAP_LIMIT = 1e-4


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Small networks gain nothing by a second one, and wait for it where somebody else computes."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def subject(request: pytest.FixtureRequest) -> Subject:
    """One network at a time is held."""
    return Subject((ROWS | TRAPS)[request.param])


def on(names: Iterable[str], prove: Iterable[str] = ()) -> pytest.MarkDecorator:
    """A test for each of some subjects, of which those to `prove` run under `make prove` only."""
    heavy = pytest.mark.prove
    rows = [*names, *(pytest.param(name, marks=heavy) for name in prove)]
    return pytest.mark.parametrize("subject", rows, indirect=True)


everywhere = on([name for name in ROWS if name in QUICK], [name for name in ROWS if name not in QUICK])


def test_every_method_of_both_is_compared() -> None:
    ours = {name.replace("_", "").replace("+", "plus") for name in METHODS}
    theirs = {name.lower() for name in dir(grad_cam()) if name.endswith(("CAM", "PlusPlus"))}
    assert {name.lower() for name in NAMES.values()} == ours & theirs
    assert set(NAMES) <= set(METHODS)


@pytest.mark.parametrize("method", ["gradcam", "hirescam", "layercam"])
@everywhere
def test_maps_are_those_of_the_reference(subject: Subject, method: str) -> None:
    for layer in subject.row.layers:
        assert apart(subject.shown(subject.raw(method, layer)), subject.truth(method, layer)) < MAP_LIMIT, layer


@pytest.mark.parametrize("method", ["eigencam", "eigengradcam"])
@everywhere
def test_eigenmaps_are_those_of_the_reference_or_their_negative(subject: Subject, method: str) -> None:
    """Its sign is whichever LAPACK gives."""
    for layer in subject.row.layers:
        raw, truth = subject.raw(method, layer), subject.truth(method, layer)
        assert min(apart(subject.shown(one), truth) for one in (raw, -raw)) < MAP_LIMIT, layer


@on(SEGMENTERS[:1], SEGMENTERS[1:])
def test_a_region_is_explained_as_by_the_reference(subject: Subject) -> None:
    """Its target of a segmenter is a class and a mask of pixels; ours is a seed with the mask in the class's plane."""
    from pytorch_grad_cam.utils.model_targets import SemanticSegmentationTarget

    (k,) = np.flatnonzero(subject.seed[0].any((1, 2)))
    for layer in subject.row.layers:
        truth = subject.truth("gradcam", layer, target=SemanticSegmentationTarget(k, subject.seed[0, k]))
        assert apart(subject.shown(subject.raw("gradcam", layer)), truth) < MAP_LIMIT


@everywhere
def test_layers_are_fused_as_in_the_reference(subject: Subject) -> None:
    """But that it stretches each from its minimum first, and works at the size of the picture, not of the finest."""
    stretched = [scaled(normalize(subject.raw("gradcam", layer))) for layer in subject.row.layers]
    expected = subject.truth("gradcam", *subject.row.layers)
    assert apart(scaled(fuse([subject.laid(cells) for cells in stretched])), expected) < MAP_LIMIT
    assert np.corrcoef(subject.laid(fuse(stretched)).ravel(), expected.ravel())[0, 1] > 0.98


# Grad-CAM++ and XGrad-CAM, which divide


@pytest.mark.parametrize("method", ["gradcam++", "xgradcam"])
@everywhere
def test_quotients_are_those_of_the_reference(subject: Subject, method: str) -> None:
    for layer in subject.row.layers:
        if not cancels(subject, method, layer):
            assert apart(subject.shown(subject.raw(method, layer)), subject.truth(method, layer)) < MAP_LIMIT, layer


@pytest.mark.parametrize("method", ["gradcam++", "xgradcam"])
@on(["signed"], ["densenet", "convnext", "efficientnet"])
def test_quotients_have_poles_where_a_layer_is_negative(subject: Subject, method: str) -> None:
    """XGrad-CAM's is where S = 0, Grad-CAM++'s where g = -2 / S: next to it neither map has four digits.

    A and g are the same on both sides, as everywhere. Of either side's the two formulas make the same map, in float64.
    """
    assert not any(cancels(subject, method, layer) and not subject.signed(layer) for layer in subject.row.layers)
    weights = getattr(grad_cam(), NAMES[method]).get_cam_weights
    for layer in filter(subject.signed, subject.row.layers):
        own = subject.stored(layer)
        assert subject.parted(layer) < GRADIENT_LIMIT
        for A, g in ((subject.seen[layer][0], subject.gradients(layer)[0]), (own.activations, own.gradients)):
            A, g = A.astype(np.float64), g.astype(np.float64)
            expected = np.tensordot(weights(None, None, None, None, A[None], g[None])[0], A, 1)
            assert apart(subject.shown(GRADIENT_METHODS[method](A, g)), subject.shown(expected)) < 1e-6


def cancels(subject: Subject, method: str, layer: str) -> bool:
    """Whether a divisor is less than a hundredth of its terms, so that a millionth of rounding becomes 1e-4."""
    A, g = subject.seen[layer], subject.gradients(layer)
    terms = np.stack([2 * g**2, A.sum((2, 3), keepdims=True) * g**3])[:, g > 0]  # all others weigh nothing
    if method == "xgradcam":
        terms = A[0].reshape(len(A[0]), -1).T
    return bool((np.abs(terms.sum(0)) < 0.01 * np.abs(terms).sum(0)).any())


# Ablation-CAM


@everywhere
def test_maps_of_ablationcam_are_those_of_the_reference(subject: Subject) -> None:
    """With the paper's zeros: see the next test."""
    for layer in subject.row.layers:
        more = {"ablation_layer": zeroing()} if subject.signed(layer) else {}
        found, expected = subject.shown(subject.raw("ablationcam", layer)), subject.truth("ablationcam", layer, **more)
        assert apart(found, expected) < MAP_LIMIT, layer


@on(["signed"])
def test_ablationcam_of_the_reference_does_not_ablate_to_nothing_where_activations_are_negative(
    subject: Subject,
) -> None:
    """There it sets a channel to less than -1e7. With the paper's zeros the maps are the same."""
    (layer,) = subject.row.layers
    assert subject.signed(layer)
    ours = subject.shown(subject.raw("ablationcam", layer))
    assert apart(ours, subject.truth("ablationcam", layer)) > 0.1
    assert apart(ours, subject.truth("ablationcam", layer, ablation_layer=zeroing())) < MAP_LIMIT


@on(sorted(QUICK))
def test_ablationcam_of_the_reference_turns_over_where_y_is_negative(subject: Subject) -> None:
    """Asked for the opposite it gives the same map; Percept gives the opposite."""
    layer, seed = subject.row.layers[0], -subject.seed
    turned = subject.truth("ablationcam", layer, target=_SeedTarget(seed[0]))
    assert apart(turned, subject.truth("ablationcam", layer)) < MAP_LIMIT
    opposite = subject.raw("ablationcam", layer, seed)
    np.testing.assert_allclose(opposite, -subject.raw("ablationcam", layer), rtol=1e-3, atol=1e-4 * opposite.max())


@on([], ["batched"])
def test_ablationcam_of_the_reference_rounds_y_otherwise_than_what_it_is_compared_with(subject: Subject) -> None:
    """Its y is of a batch of one and the others of 32, by other kernels: where channels do little that is seen.

    One by one its maps are ours, whose y is of the same batches from the beginning.
    """
    (layer,) = subject.row.layers
    ours = subject.shown(subject.raw("ablationcam", layer))
    many, one = subject.truth("ablationcam", layer), subject.truth("ablationcam", layer, batch_size=1)
    assert apart(ours, one) < MAP_LIMIT
    assert apart(ours, one) < apart(many, one) / 4


# Score-CAM


@everywhere
def test_scorecam_of_the_reference_enlarges_its_masks_past_the_edges(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It lays the centres of a mask's outer cells on the edges of the picture; ours lie half a cell inside of them.

    That apart, and the rounding of masked pixels, the maps are the same. Of a sum over many pixels the softmax leaves
    one channel alone, so a smaller part of y is explained too, which needs all of them.
    """
    for layer in subject.row.layers:
        if subject.seen[layer].shape[1] > MAX_CHANNELS:
            continue
        y = (subject.seed * subject.seen["logits"]).sum()
        for seed in (subject.seed, subject.seed * min(1, 4 / y)):
            target = _SeedTarget(seed[0])
            ours = subject.shown(subject.raw("scorecam", layer, seed))
            first = Rounding(np.concatenate(subject.asked))
            aligned = apart(ours, subject.truth("scorecam", layer, target=target, first=first))
            with monkeypatch.context() as patch:
                patch.setattr(nn, "UpsamplingBilinear2d", lambda size: nn.Upsample(size, mode="bilinear"))
                assert apart(ours, subject.truth("scorecam", layer, target=target, first=first)) < MAP_LIMIT, layer
        assert aligned > 10 * MAP_LIMIT


# What is stored, and what rounding does


@on(["overwritten"], ["densenet"])
def test_the_reference_shows_what_was_written_over_a_layer(subject: Subject) -> None:
    """It keeps no copy: of ResNet's `out += identity` and DenseNet's `F.relu(x, inplace=True)` it has the result.

    Its gradients are still those of the layer. Where nothing is done in place the maps are the same.
    """
    layer = subject.row.layers[-1]
    ours = subject.shown(subject.raw("gradcam", layer))
    assert apart(ours, subject.truth("gradcam", layer, in_place=True)) > 0.01
    assert apart(ours, subject.truth("gradcam", layer)) < MAP_LIMIT


@on([], ["normalized"])
def test_hirescam_is_nothing_before_a_normalization_over_channels(subject: Subject) -> None:
    """What is the same for 2 A as for A has sum_k g_k A_k = 0, as Euler knew: at the ends of ConvNeXt's stages.

    The reference stretches a millionth of the terms to a map, Percept knows it for rounding. It is gone in float64 and
    without the normalization's epsilon.
    """
    (layer,) = subject.row.layers
    exact = copy.deepcopy(subject.network).double()
    for module in exact.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = 0
    stored, pure = subject.stored(layer), subject.stored(layer, exact)
    terms = np.abs(stored.gradients * stored.activations).sum(0).max()
    assert not subject.raw("hirescam", layer).any()
    assert 0 < np.abs((stored.gradients * stored.activations).sum(0)).max() < 1e-6 * terms
    assert np.abs((pure.gradients * pure.activations).sum(0)).max() < 1e-14 * terms


def test_where_rounding_switches_a_relu_neither_is_at_fault() -> None:
    """Its input is 0 but for rounding, on the one side here and on the other there, and the gradients jump.

    With the ReLUs of torch switched as ONNX Runtime has switched its own all is the same again.
    """
    subject = Subject(ROWS["squeezenet"])
    layer = subject.row.layers[0]

    def parted() -> float:
        return apart(subject.shown(subject.raw("hirescam", layer)), subject.truth("hirescam", layer))

    next(i for i in range(1000) if subject.look(i) or parted() > MAP_LIMIT)
    relus = {name: module for name, module in subject.network.named_modules() if isinstance(module, nn.ReLU)}
    trunk = Session(trace(subject.network, subject.how, list(relus)).SerializeToString())
    seen, edges = trunk.run({PIXELS: subject.pixels[None]}, list(relus)), []

    def switch(on: torch.Tensor) -> Callable[..., torch.Tensor]:
        def hook(_module: nn.Module, inputs: tuple[torch.Tensor], _output: torch.Tensor) -> torch.Tensor:
            edges.append(inputs[0].detach()[(inputs[0] > 0) != on].abs())
            return inputs[0] * on

        return hook

    for name, module in relus.items():
        module.register_forward_hook(switch(torch.from_numpy(seen[name] > 0)))
    assert subject.parted(layer) < GRADIENT_LIMIT
    assert 0 < len(torch.cat(edges)) < 10
    assert torch.cat(edges).max() < 1e-5
    assert parted() < MAP_LIMIT
