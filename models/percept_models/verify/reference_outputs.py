"""A bundle against outputs that another graph gave for the same images, or, without them, against itself.

Tails are compared with the trunk and with finite differences. They start from the reference's activations where it has
all that a tail needs, else from the trunk's own.
"""

from collections.abc import Iterator, Mapping

from percept.bundle.manifest import Layer
from percept_models.autodiff.tail import LOGITS
from percept_models.graph.reader import Array
from percept_models.verify.checks import LIMIT, LIMITS, Check, check_activations, difference
from percept_models.verify.finite_differences import check_finite_differences
from percept_models.verify.runner import BundleRunner

DISAGREEMENT_LIMIT = 0.05  # the share of images, or of pixels, whose class may change in lower precision


def check_against_outputs(runner: BundleRunner, expected: Mapping[str, Array]) -> Iterator[Check]:
    """Compare the logits and layers that `expected` holds, and every tail."""
    limit = LIMITS[runner.manifest.precision]
    if LOGITS in expected:
        yield Check("logits", difference(runner.outputs[LOGITS], expected[LOGITS]), limit)
        yield _check_predictions(runner, expected[LOGITS])
    for layer in runner.manifest.layers:
        if layer.name in expected:
            yield check_activations(layer, runner.outputs, expected, limit)
        if layer.tail:
            yield from _check_tail(runner, layer, expected, limit)


def _check_predictions(runner: BundleRunner, expected: Array) -> Check:
    """The share of images, or of their pixels, that get another class than expected."""
    share = float((runner.outputs[LOGITS].argmax(1) != expected.argmax(1)).mean())
    unit = "pixels" if runner.manifest.task == "segmentation" else "images"
    return Check("predictions", share, DISAGREEMENT_LIMIT, f"the share of {unit} with another class")


def _check_tail(runner: BundleRunner, layer: Layer, expected: Mapping[str, Array], limit: float) -> Iterator[Check]:
    assert layer.tail is not None
    complete = {LOGITS, layer.name, *layer.tail.crossing} <= set(expected)
    outputs = expected if complete else runner.outputs
    logits = runner.run_tail(layer, outputs, runner.seed)[LOGITS]
    yield Check(f"{layer.name} tail logits", difference(logits, outputs[LOGITS]), LIMIT if complete else limit)
    yield check_finite_differences(runner, layer, outputs)
