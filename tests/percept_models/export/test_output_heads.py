"""Torch networks with any end: the scores of their bundles are their own outputs, and no activation is doubled."""

import re
from collections.abc import Callable
from urllib.parse import quote

import numpy as np
import pytest
import torch

from percept.bundle.integrity import read_manifest
from percept.bundle.manifest import Activation, Manifest
from percept.runtime.network import Network, TrunkInput
from percept.server.cli import main
from percept.tasks.classification import seed_class
from percept.tasks.task import activate
from percept_models.autodiff.tail import LOGITS
from percept_models.graph.execution import run
from percept_models.graph.reader import Array
from percept_models.sources.trunk import PIXELS, Trunk, run_network
from tests.percept_models.export import factories
from tests.percept_models.export.conftest import Export
from tests.percept_models.export.factories import MODULE

SIZE = (32, 24)


def scores_and_output(export: Export, network: torch.nn.Module) -> tuple[Manifest, Array, Array]:
    """The manifest of the bundle, the scores [N,K,...] that it gives for noise, and the network's own output."""
    manifest = read_manifest(export.folder())
    pixels = torch.randint(0, 256, (3, *SIZE, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    logits = run(export.folder() / manifest.trunk, {PIXELS: pixels.numpy()})[LOGITS]
    scores = np.stack([activate(row, manifest.activation) for row in logits])
    output = run_network(network, manifest.preprocessing, pixels, manifest.head.output)
    return manifest, scores, output.tensor.numpy()


def sigmoid(y: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-y)))


# The head → the activation, how class 0 was added, and the scores of all classes, or of class 1 of two, by the output.
CLASSIFIERS: dict[str, tuple[Activation, str | None, Callable[[Array], Array]]] = {
    "logit": ("softmax", "zero", sigmoid),
    "squeezed": ("softmax", "zero", sigmoid),
    "sigmoid": ("softmax", "zero", lambda y: y),
    "hard sigmoid": ("none", "complement", lambda y: y),
    "softmax": ("softmax", None, lambda y: y),
    "root of softmax": ("none", None, lambda y: y),
    "log softmax": ("softmax", None, np.exp),
}


@pytest.mark.parametrize("head", CLASSIFIERS)
def test_scores_are_the_output_of_the_classifier(export: Export, head: str) -> None:
    activation, added, expected = CLASSIFIERS[head]
    assert export(f"{MODULE}:headed_classifier?head={quote(head)}") == 0
    manifest, scores, output = scores_and_output(export, factories.headed_classifier(head))
    assert (manifest.activation, manifest.head.added, manifest.task) == (activation, added, "classification")
    if added:
        np.testing.assert_allclose(scores.sum(1), 1, atol=1e-6)
        scores = scores[:, 1:]
    np.testing.assert_allclose(scores.ravel(), expected(output).ravel(), rtol=1e-5, atol=1e-6)


def test_bundle_of_a_classifier_is_verified_again(export: Export, capsys: pytest.CaptureFixture[str]) -> None:
    """Against the network, whose argmax and softmax the bundle has no longer."""
    assert export(f"{MODULE}:headed_classifier?head=argmax of softmax") == 0
    assert read_manifest(export.folder()).head.removed == ("ArgMax", "Softmax")
    capsys.readouterr()
    assert main(["verify", str(export.folder()), "--against", "torch"]) == 0
    assert "own output" in capsys.readouterr().out
    _, scores, output = scores_and_output(export, factories.headed_classifier("argmax of softmax"))
    np.testing.assert_array_equal(scores.argmax(1), output)


def test_wrong_activation_is_found_by_verification(
    export: Export, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bundle of the same network with another end does not give the network's own output."""
    assert export(f"{MODULE}:headed_classifier?head=softmax") == 0
    monkeypatch.setitem(factories.HEADS, "softmax", (4, lambda y: (2 * y).softmax(1)))
    assert main(["verify", str(export.folder()), "--against", "torch"]) == 1
    assert re.search("FAIL .*own output", capsys.readouterr().out)


def test_output_that_may_be_scores_is_doubted(export: Export, capsys: pytest.CaptureFixture[str]) -> None:
    """Where no operator shows that it is between 0 and 1; the user decides."""
    source = f"{MODULE}:headed_classifier?head=softsign as a sigmoid"
    assert export(source) == 0
    assert "are between 0 and 1: if they are scores already" in capsys.readouterr().out
    assert export(source, "--activation", "none", "--version", "2") == 0
    assert "if they are scores already" not in capsys.readouterr().out


# The head → the activation, and the scores [N,K,h,w] by the output, or those of class 1 of two.
SEGMENTERS: dict[str, tuple[Activation, Callable[[Array], Array]]] = {
    "sigmoid": ("softmax", lambda y: y),
    "softmax with classes last": ("softmax", lambda y: y.transpose(0, 3, 1, 2)),
    "resized softmax": ("none", lambda y: y),
}


@pytest.mark.parametrize("head", SEGMENTERS)
def test_scores_are_the_output_of_the_segmenter(export: Export, head: str) -> None:
    activation, expected = SEGMENTERS[head]
    assert export(f"{MODULE}:headed_segmenter?head={quote(head)}") == 0
    manifest, scores, output = scores_and_output(export, factories.headed_segmenter(head))
    assert (manifest.activation, manifest.task) == (activation, "segmentation")
    assert manifest.layers[-1].name == manifest.cam_layer == "body"
    found = scores[:, 1] if manifest.head.added else scores
    np.testing.assert_allclose(found, expected(output), rtol=1e-5, atol=1e-6)


def test_argmax_of_a_segmenter_is_removed(export: Export) -> None:
    assert export(f"{MODULE}:headed_segmenter?head=argmax") == 0
    _, scores, output = scores_and_output(export, factories.headed_segmenter("argmax"))
    np.testing.assert_array_equal(scores.argmax(1), output[:, 0])


def test_output_is_selected_by_name(export: Export, capsys: pytest.CaptureFixture[str]) -> None:
    """And is selected again when the bundle is verified."""
    source = f"{MODULE}:headed_classifier?head=two"
    assert export(source) == 1
    assert "select one with --output NAME; boxes [N,4], classes [N,3]" in capsys.readouterr().err
    assert export(source, "--output", "classes") == 0
    assert "classes; left out: boxes [N,4]" in capsys.readouterr().out
    _, scores, output = scores_and_output(export, factories.headed_classifier("two"))
    np.testing.assert_allclose(scores, output, rtol=1e-5)
    assert main(["verify", str(export.folder()), "--against", "torch"]) == 0


def test_contradicting_activation_is_refused(export: Export, capsys: pytest.CaptureFixture[str]) -> None:
    assert export(f"{MODULE}:headed_classifier?head=softmax", "--activation", "sigmoid") == 1
    assert "which contradicts --activation sigmoid" in capsys.readouterr().err
    assert export.files() == []


@pytest.mark.parametrize(("head", "activation"), [("softmax", "none"), ("sigmoids", "sigmoid")])
def test_given_activation_is_not_doubled(export: Export, head: str, activation: str) -> None:
    assert export(f"{MODULE}:headed_classifier?head={head}", "--activation", activation) == 0
    manifest, scores, output = scores_and_output(export, factories.headed_classifier(head))
    assert manifest.activation == activation
    np.testing.assert_allclose(scores, output, rtol=1e-5)
    assert main(["verify", str(export.folder()), "--against", "torch"]) == 0


@pytest.mark.parametrize("index", [0, 1])
def test_gradient_of_both_classes_of_one_output(export: Export, index: int) -> None:
    """Class 1 has the gradient of the output y, and class 0 that of -y, as torch gives them."""
    assert export(f"{MODULE}:headed_classifier?head=squeezed") == 0
    network = Network(export.folder(), "cpu", 1)
    manifest, layer = network.manifest, network.manifest.layers[-1]
    pixels = torch.randint(0, 256, (1, *SIZE, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    (outputs,) = network.run_trunk([TrunkInput(pixels[0].numpy(), network.outputs_for_gradients(layer))])
    seed = seed_class(manifest, outputs[LOGITS], index, None)
    found = network.compute_gradients(layer, outputs, seed)
    y, A = Trunk(factories.headed_classifier("squeezed"), manifest.preprocessing, [layer.name])(pixels)
    (expected,) = torch.autograd.grad(y if index else -y, A)
    np.testing.assert_allclose(found, expected[0].numpy(), rtol=1e-4, atol=1e-7)


def test_layer_after_the_logits_is_not_tapped(export: Export, capsys: pytest.CaptureFixture[str]) -> None:
    """A module that gives the logits of a segmenter before its activation is no feature map."""
    source = f"{MODULE}:headed_segmenter?head=sigmoid"
    assert export(source, "--layers", "classes") == 1
    assert re.search("the layer 'classes' is .*the logits", capsys.readouterr().err)
