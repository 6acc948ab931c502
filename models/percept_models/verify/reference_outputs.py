"""A bundle against outputs that another graph gave for the same images, or, without them, against itself.

Tails are compared with the trunk, with finite differences and with themselves without ONNX Runtime's optimizers. They
start from the reference's activations where it has all that a tail needs, else from the trunk's own.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace

from percept.bundle.manifest import Layer
from percept_models.autodiff.tail import GRADIENTS, LOGITS
from percept_models.graph.reader import Array
from percept_models.verify.checks import (
    JUMP_LIMIT,
    LIMIT,
    LIMITS,
    Check,
    allow_jumps,
    allow_rounding,
    check_activations,
    check_gradients,
    difference,
    mean_difference,
)
from percept_models.verify.finite_differences import IMAGES, check_finite_differences
from percept_models.verify.runner import BundleRunner

DISAGREEMENT_LIMIT = 0.05  # the share of images, or of pixels, whose class may change in lower precision
LAYER_LIMIT = 1e-3  # of layers without optimizers: a merged batch norm may cancel large numbers, and no tail shows it
ROUNDING_NOTE = "the limit is how far it moves when the layer, or the first one, grows by a millionth"


def check_against_outputs(runner: BundleRunner, expected: Mapping[str, Array]) -> Iterator[Check]:
    """Compare the logits and layers that `expected` holds, and every tail."""
    limit = LIMITS[runner.manifest.precision]
    if LOGITS in expected:
        check = judge(runner, Check("logits", difference(runner.outputs[LOGITS], expected[LOGITS]), limit))
        yield check
        if check.limit == limit:
            yield _check_predictions(runner, expected[LOGITS])
    for layer in runner.manifest.layers:
        if layer.name in expected:
            yield judge(runner, check_activations(layer, runner.outputs, expected, limit))
        if layer.tail:
            yield from _check_tail(runner, layer, expected, limit)


def check_trunk_against_itself(runner: BundleRunner) -> Iterator[Check]:
    """Compare the trunk's outputs with those of each image alone, and with those without optimizers."""
    runner, limit = runner.first_images(IMAGES), LIMITS[runner.manifest.precision]
    alone, plain = runner.run_trunk_on_each(), runner.run_trunk(optimize=False)
    mixing = max(difference(values, alone[name]) for name, values in runner.outputs.items())
    compare = mean_difference if runner.manifest.precision == "int8" else difference
    errors = [compare(values, plain[name]) for name, values in runner.outputs.items() if name != LOGITS]
    yield judge(runner, Check("each image alone", mixing, limit))
    yield judge(runner, Check("logits without optimizers", difference(runner.outputs[LOGITS], plain[LOGITS]), limit))
    yield judge(runner, Check("layers without optimizers", max(errors, default=0.0), max(limit, LAYER_LIMIT)))


def judge(runner: BundleRunner, check: Check) -> Check:
    """A check of the trunk; where it failed, with a limit that the amplification of rounding justifies."""
    if check.passed or not runner.layers_with_tails:
        return check
    first = runner.layers_with_tails[0]
    return allow_rounding(check, runner.measure_rounding(first, runner.outputs)[LOGITS], ROUNDING_NOTE)


def _check_predictions(runner: BundleRunner, expected: Array) -> Check:
    """The share of images, or of their pixels, that get another class than expected."""
    share = float((runner.outputs[LOGITS].argmax(1) != expected.argmax(1)).mean())
    unit = "pixels" if runner.manifest.task == "segmentation" else "images"
    return Check("predictions", share, DISAGREEMENT_LIMIT, f"the share of {unit} with another class")


def _check_tail(runner: BundleRunner, layer: Layer, expected: Mapping[str, Array], limit: float) -> Iterator[Check]:
    assert layer.tail is not None
    complete = {LOGITS, layer.name, *layer.tail.crossing} <= set(expected)
    outputs = {name: values[:IMAGES] for name, values in (expected if complete else runner.outputs).items()}
    runner = runner.first_images(IMAGES)
    tail = runner.run_tail(layer, outputs, runner.seed)
    logits = Check(f"{layer.name} tail logits", difference(tail[LOGITS], outputs[LOGITS]), LIMIT if complete else limit)
    if not logits.passed:
        logits = allow_rounding(logits, runner.measure_rounding(layer, outputs)[LOGITS], ROUNDING_NOTE)
    yield logits
    yield check_finite_differences(runner, layer, outputs)
    yield _check_tail_optimizers(runner, layer, outputs, tail)


def _check_tail_optimizers(
    runner: BundleRunner, layer: Layer, outputs: Mapping[str, Array], tail: Mapping[str, Array]
) -> Check:
    """Compare the gradients of a tail with those without ONNX Runtime's optimizers."""
    plain = runner.run_tail(layer, outputs, runner.seed, optimize=False)
    check = check_gradients(layer.name, tail[GRADIENTS], plain[GRADIENTS])
    if not check.passed:
        jumps = runner.measure_rounding(layer, outputs)
        limit = max(JUMP_LIMIT, LIMITS[runner.manifest.precision])
        check = allow_jumps(check, jumps[GRADIENTS], jumps[LOGITS], ROUNDING_NOTE, limit)
    return replace(check, name=f"{check.name} without optimizers")
