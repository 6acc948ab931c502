"""Percept's methods on ONNX tails give the maps of pytorch-grad-cam.

Where the two differ on purpose a test first shows the difference and then, with that one thing changed, that the maps
agree. Most networks run under `make prove` only: each takes seconds to trace.
"""

import copy
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
from torch import nn

from percept.explain.maps import fuse, normalize
from percept.explain.methods.perturbations import MAX_CHANNELS
from percept.explain.methods.table import METHODS
from percept_models.verify.checks import GRADIENT_LIMIT
from tests.method_runs import GRADIENT_METHODS
from tests.percept_models.grad_cam_reference import CLASS_NAMES, MAP_LIMIT, SeedTarget, grad_cam_package, rescale
from tests.percept_models.method_comparison import (
    EDGE_CASES,
    NETWORKS,
    QUICK,
    SEGMENTERS,
    MethodComparison,
    RoundToPixels,
    map_difference,
    zero_ablation,
)

pytestmark = pytest.mark.usefixtures("one_torch_thread")


@pytest.fixture(scope="module")
def comparison(request: pytest.FixtureRequest) -> MethodComparison:
    """One network; only one is held in memory at a time."""
    return MethodComparison((NETWORKS | EDGE_CASES)[request.param])


def networks(names: Iterable[str], prove: Iterable[str] = ()) -> pytest.MarkDecorator:
    """Parametrize a test over networks; those to `prove` run under `make prove`."""
    rows = [*names, *(pytest.param(name, marks=pytest.mark.prove) for name in prove)]
    return pytest.mark.parametrize("comparison", rows, indirect=True)


all_networks = networks([name for name in NETWORKS if name in QUICK], [name for name in NETWORKS if name not in QUICK])


def test_every_common_method_is_compared() -> None:
    ours = {name.replace("_", "").replace("+", "plus") for name in METHODS}
    theirs = {name.lower() for name in dir(grad_cam_package()) if name.endswith(("CAM", "PlusPlus"))}
    assert {name.lower() for name in CLASS_NAMES.values()} == ours & theirs
    assert set(CLASS_NAMES) <= set(METHODS)


@pytest.mark.parametrize("method", ["gradcam", "hirescam", "layercam"])
@all_networks
def test_maps_are_those_of_reference(comparison: MethodComparison, method: str) -> None:
    for layer in comparison.case.layers:
        found = comparison.final_map(comparison.raw(method, layer))
        assert map_difference(found, comparison.reference_map(method, layer)) < MAP_LIMIT, layer


@pytest.mark.parametrize("method", ["eigencam", "eigengradcam"])
@all_networks
def test_eigenmaps_are_those_of_reference_up_to_sign(comparison: MethodComparison, method: str) -> None:
    """The sign of the reference's map is the one that LAPACK happens to return."""
    for layer in comparison.case.layers:
        raw, expected = comparison.raw(method, layer), comparison.reference_map(method, layer)
        assert min(map_difference(comparison.final_map(one), expected) for one in (raw, -raw)) < MAP_LIMIT, layer


@networks(SEGMENTERS[:1], SEGMENTERS[1:])
def test_region_is_explained_as_by_reference(comparison: MethodComparison) -> None:
    """The reference takes a class and a mask of pixels; ours is a seed with the mask in the plane of the class."""
    from pytorch_grad_cam.utils.model_targets import SemanticSegmentationTarget

    (k,) = np.flatnonzero(comparison.seed[0].any((1, 2)))
    for layer in comparison.case.layers:
        target = SemanticSegmentationTarget(k, comparison.seed[0, k])
        expected = comparison.reference_map("gradcam", layer, target=target)
        assert map_difference(comparison.final_map(comparison.raw("gradcam", layer)), expected) < MAP_LIMIT


@all_networks
def test_layers_are_fused_as_by_reference(comparison: MethodComparison) -> None:
    """Except that it first rescales each map from its minimum, and works at the size of the image."""
    layers = comparison.case.layers
    rescaled = [rescale(normalize(comparison.raw("gradcam", layer))) for layer in layers]
    expected = comparison.reference_map("gradcam", *layers)
    assert map_difference(rescale(fuse([comparison.project(cells) for cells in rescaled])), expected) < MAP_LIMIT
    assert np.corrcoef(comparison.project(fuse(rescaled)).ravel(), expected.ravel())[0, 1] > 0.98


# Grad-CAM++ and XGrad-CAM, which divide.


@pytest.mark.parametrize("method", ["gradcam++", "xgradcam"])
@all_networks
def test_quotients_are_those_of_reference(comparison: MethodComparison, method: str) -> None:
    for layer in comparison.case.layers:
        if not has_cancellation(comparison, method, layer):
            found = comparison.final_map(comparison.raw(method, layer))
            assert map_difference(found, comparison.reference_map(method, layer)) < MAP_LIMIT, layer


@pytest.mark.parametrize("method", ["gradcam++", "xgradcam"])
@networks(["signed"], ["densenet", "convnext", "efficientnet"])
def test_quotients_have_poles_where_layer_is_negative(comparison: MethodComparison, method: str) -> None:
    """XGrad-CAM has its pole at S = 0, Grad-CAM++ at g = -2 / S: close to it neither map has four exact digits.

    A and g agree everywhere. In float64 the formulas of both make the same map of either's A and g.
    """
    layers = comparison.case.layers
    signed = [layer for layer in layers if comparison.is_signed(layer)]
    assert all(layer in signed for layer in layers if has_cancellation(comparison, method, layer))
    weights = getattr(grad_cam_package(), CLASS_NAMES[method]).get_cam_weights
    for layer in signed:
        reference = comparison.reference_gradients(layer)
        assert comparison.gradient_error(layer) < GRADIENT_LIMIT
        ours = (comparison.outputs[layer][0], comparison.gradients(layer)[0])
        for A, g in (ours, (reference.activations, reference.gradients)):
            A, g = A.astype(np.float64), g.astype(np.float64)
            expected = comparison.final_map(np.tensordot(weights(None, None, None, None, A[None], g[None])[0], A, 1))
            assert map_difference(comparison.final_map(GRADIENT_METHODS[method](A, g)), expected) < 1e-6


def has_cancellation(comparison: MethodComparison, method: str, layer: str) -> bool:
    """Whether a divisor is less than a hundredth of its terms, so that rounding by a millionth becomes 1e-4."""
    A, g = comparison.outputs[layer], comparison.gradients(layer)
    terms = np.stack([2 * g**2, A.sum((2, 3), keepdims=True) * g**3])[:, g > 0]  # the others have no weight
    if method == "xgradcam":
        terms = A[0].reshape(len(A[0]), -1).T
    return bool((np.abs(terms.sum(0)) < 0.01 * np.abs(terms).sum(0)).any())


# Ablation-CAM.


@all_networks
def test_ablationcam_maps_are_those_of_reference(comparison: MethodComparison) -> None:
    """Where activations are negative, the reference must ablate with zeros: see the next test."""
    for layer in comparison.case.layers:
        options: dict[str, Any] = {"ablation_layer": zero_ablation()} if comparison.is_signed(layer) else {}
        found = comparison.final_map(comparison.raw("ablationcam", layer))
        assert map_difference(found, comparison.reference_map("ablationcam", layer, **options)) < MAP_LIMIT, layer


@networks(["signed"])
def test_reference_ablates_below_zero_where_layer_is_negative(comparison: MethodComparison) -> None:
    """It sets a channel to less than -1e7. With the zeros of the paper the maps are the same."""
    (layer,) = comparison.case.layers
    assert comparison.is_signed(layer)
    ours = comparison.final_map(comparison.raw("ablationcam", layer))
    assert map_difference(ours, comparison.reference_map("ablationcam", layer)) > 0.1
    with_zeros = comparison.reference_map("ablationcam", layer, ablation_layer=zero_ablation())
    assert map_difference(ours, with_zeros) < MAP_LIMIT


@networks(sorted(QUICK))
def test_reference_ablationcam_ignores_sign_of_y(comparison: MethodComparison) -> None:
    """For the opposite seed it gives the same map; Percept gives the negative map."""
    layer, seed = comparison.case.layers[0], -comparison.seed
    opposite_reference = comparison.reference_map("ablationcam", layer, target=SeedTarget(seed[0]))
    assert map_difference(opposite_reference, comparison.reference_map("ablationcam", layer)) < MAP_LIMIT
    opposite = comparison.raw("ablationcam", layer, seed)
    np.testing.assert_allclose(opposite, -comparison.raw("ablationcam", layer), rtol=1e-3, atol=1e-4 * opposite.max())


# Score-CAM.


@all_networks
def test_reference_scorecam_aligns_masks_to_corners(
    comparison: MethodComparison, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It puts the centres of a mask's outer cells on the edges of the image; ours lie half a cell inside.

    Apart from that, and from the rounding of masked pixels, the maps are the same. For a sum over many pixels the
    softmax keeps one channel alone, so a smaller part of y is explained too, which needs all channels.
    """
    for layer in comparison.case.layers:
        if comparison.outputs[layer].shape[1] > MAX_CHANNELS:
            continue
        y = (comparison.seed * comparison.outputs["logits"]).sum()
        for seed in (comparison.seed, comparison.seed * min(1, 4 / y)):
            ours = comparison.final_map(comparison.raw("scorecam", layer, seed))
            options: dict[str, Any] = {
                "target": SeedTarget(seed[0]),
                "first": RoundToPixels(np.concatenate(comparison.perturbed)),
            }
            aligned = map_difference(ours, comparison.reference_map("scorecam", layer, **options))
            with monkeypatch.context() as patch:
                patch.setattr(nn, "UpsamplingBilinear2d", lambda size: nn.Upsample(size, mode="bilinear"))
                expected = comparison.reference_map("scorecam", layer, **options)
            assert map_difference(ours, expected) < MAP_LIMIT, layer
        assert aligned > 10 * MAP_LIMIT


# In-place operations and cancellation.


@networks(["overwritten"], ["densenet"])
def test_reference_shows_what_overwrote_a_layer(comparison: MethodComparison) -> None:
    """It records no copy: after ResNet's `out += identity` and DenseNet's `F.relu(x, inplace=True)` it has the result.

    Its gradients are still those of the layer. Without in-place operations the maps are the same.
    """
    layer = comparison.case.layers[-1]
    ours = comparison.final_map(comparison.raw("gradcam", layer))
    assert map_difference(ours, comparison.reference_map("gradcam", layer, in_place=True)) > 0.01
    assert map_difference(ours, comparison.reference_map("gradcam", layer)) < MAP_LIMIT


@networks([], ["normalized"])
def test_hirescam_vanishes_before_layer_normalization(comparison: MethodComparison) -> None:
    """A function that is the same for 2 A as for A has sum_k g_k A_k = 0 (Euler): at the ends of ConvNeXt's stages.

    The reference scales a millionth of the terms up to a map, Percept treats it as rounding. In float64 and without the
    epsilon of the normalization it is gone.
    """
    (layer,) = comparison.case.layers
    exact = copy.deepcopy(comparison.network).double()
    for module in exact.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = 0
    single, double = comparison.reference_gradients(layer), comparison.reference_gradients(layer, exact)
    terms = np.abs(single.gradients * single.activations).sum(0).max()
    assert not comparison.raw("hirescam", layer).any()
    assert 0 < np.abs((single.gradients * single.activations).sum(0)).max() < 1e-6 * terms
    assert np.abs((double.gradients * double.activations).sum(0)).max() < 1e-14 * terms
