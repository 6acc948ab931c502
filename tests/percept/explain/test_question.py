"""A question is checked against a loaded model, and becomes layers and class indices."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from percept.errors import BadParameter, GradientsUnavailable, MethodUnavailable, UnknownClass, UnknownLayer
from percept.explain.methods.table import METHODS
from percept.explain.question import (
    MAX_COMPARED_CLASSES,
    MAX_FAITHFULNESS_MAPS,
    MAX_MAPS,
    Question,
    needs_probe,
    resolve,
    unavailable_reason,
)
from percept.runtime.execution_plan import ExecutionPlan, create_worker_pools
from percept.runtime.model import Model, load_model
from tests.bundles import create_bundle, read_manifest_json, write_manifest

Load = Callable[[str], Model]


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Model]:
    """A marker classifier whose tail has not been run yet."""
    plan = ExecutionPlan("cpu", 1, 1, 1, 8)
    pools = create_worker_pools(plan, 1)
    yield load_model(create_bundle(tmp_path), plan, pools)
    pools.close()


def test_empty_question_is_about_the_cam_layer(load: Load) -> None:
    model = load("classification-squeeze")
    resolved = resolve(model, Question())
    assert resolved.model is model
    assert [[layer.name for layer in group] for group in resolved.groups] == [["colour"]]
    assert resolved.methods == ("gradcam",)
    assert (resolved.targets, resolved.top, resolved.against) == ((), 1, None)
    assert resolved.outputs == {"logits", "colour"}


def test_names_become_indices_and_layers(load: Load) -> None:
    question = Question(
        methods=("integrated_gradients",), layers=("image+stem", "stage2"), targets=("dog", "3"), against="cat"
    )
    resolved = resolve(load("cifar10"), question)
    assert [[layer.name for layer in group] for group in resolved.groups] == [["image", "stem"], ["stage2"]]
    assert resolved.targets == (5, 3)
    assert resolved.against == 3
    assert {"logits", "image", "stem", "stage2"} <= resolved.outputs


def test_outputs_hold_the_tensors_that_bypass_a_layer(load: Load) -> None:
    model = load("clothing")
    for layer in model.manifest.layers:
        crossing = layer.tail.crossing if layer.tail else ()
        if layer.tail and layer.name != "image":
            resolved = resolve(model, Question(layers=(layer.name,)))
            assert resolved.outputs == {"logits", layer.name, *crossing}


@pytest.mark.parametrize(
    ("name", "question", "error", "message"),
    [
        ("classification-squeeze", Question(layers=("body",)), UnknownLayer, "no layer 'body'; it has colour"),
        ("classification-squeeze", Question(layers=("colour+body",)), UnknownLayer, "no layer 'body'"),
        ("classification-squeeze", Question(targets=("purple",)), UnknownClass, "no class 'purple'"),
        ("classification-squeeze", Question(targets=("red",), against="purple"), UnknownClass, "no class 'purple'"),
        ("classification-squeeze", Question(place=(1, 1, 1, 1)), BadParameter, "for segmentation"),
        ("classification-squeeze", Question(methods=("saliency",)), MethodUnavailable, "same in every cell"),
        ("classification-squeeze", Question(targets=("red",) * (MAX_MAPS + 1)), BadParameter, f"at most {MAX_MAPS}"),
        (
            "classification-squeeze",
            Question(targets=("red",) * (MAX_FAITHFULNESS_MAPS + 1), faithfulness=True),
            BadParameter,
            f"for {MAX_FAITHFULNESS_MAPS} at most",
        ),
        ("no-gradients", Question(), GradientsUnavailable, "no rule for Colour"),
        ("segmentation-squeeze", Question(methods=("cam",)), MethodUnavailable, "global average pooling"),
        ("cifar10", Question(layers=("image",)), MethodUnavailable, "use saliency"),
        ("cifar10", Question(layers=("stage1+stage2",), effective=True), BadParameter, "maps of one layer"),
    ],
)
def test_impossible_question_is_an_error(
    load: Load, name: str, question: Question, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        resolve(load(name), question)


def test_as_many_maps_as_the_limit_are_allowed(load: Load) -> None:
    assert len(resolve(load("classification-squeeze"), Question(targets=("red",) * MAX_MAPS)).targets) == MAX_MAPS


def test_faithfulness_needs_scores(tmp_path: Path) -> None:
    folder = create_bundle(tmp_path)
    write_manifest(folder, {**read_manifest_json(folder), "activation": "none"})
    plan = ExecutionPlan("cpu", 1, 1, 1, 8)
    pools = create_worker_pools(plan, 1)
    model = load_model(folder, plan, pools)
    with pytest.raises(BadParameter, match="faithfulness needs scores"):
        resolve(model, Question(faithfulness=True))
    assert resolve(model, Question(targets=("red",), against="blue", faithfulness=True)).faithfulness
    pools.close()


def test_effective_field_needs_the_layer_image(load: Load) -> None:
    assert "image" in resolve(load("cifar10"), Question(effective=True)).outputs
    with pytest.raises((MethodUnavailable, GradientsUnavailable)):
        resolve(load("classification-squeeze"), Question(effective=True))


def test_compared_methods_are_the_fast_ones_that_work(load: Load) -> None:
    model = load("classification-squeeze")
    found = resolve(model, Question(compare="methods")).methods
    layer = model.manifest.layers[0]
    usable = [name for name in METHODS if unavailable_reason(model, layer, name) is None]
    assert list(found) == [name for name in usable if METHODS[name].needs != "image"]
    assert {"cam", "gradcam", "eigencam"} <= set(found)


def test_compared_layers_are_those_of_the_method(load: Load) -> None:
    model = load("cifar10")
    groups = resolve(model, Question(compare="layers")).groups
    assert [group[0].name for group in groups] == [one.name for one in model.manifest.layers if one.name != "image"]
    named = resolve(model, Question(compare="layers", layers=("stage2",))).groups
    assert [group[0].name for group in named] == ["stage2"], "layers that the client names are kept"


def test_compared_classes_are_bounded(load: Load) -> None:
    assert resolve(load("cifar10"), Question(compare="classes")).top == MAX_COMPARED_CLASSES
    assert resolve(load("classification-squeeze"), Question(compare="classes")).top == 3
    assert resolve(load("cifar10"), Question(compare="classes", top=2)).top == 2
    assert resolve(load("cifar10"), Question(compare="classes", targets=("cat",))).targets == (3,)


@pytest.mark.parametrize(
    "question",
    [
        Question(methods=("cam",)),
        Question(methods=("saliency",)),
        Question(methods=("smoothgrad",)),
        Question(compare="methods"),
        Question(methods=("cam",), layers=("colour",)),
    ],
)
def test_linearity_is_probed_once(fresh: Model, question: Question) -> None:
    layer = fresh.manifest.layers[0]
    assert needs_probe(fresh, question)
    assert not fresh.network.knows_linearity(layer)
    with suppress(MethodUnavailable):
        resolve(fresh, question)
    assert fresh.network.knows_linearity(layer)
    assert not needs_probe(fresh, question)


@pytest.mark.parametrize(
    "method", [name for name, row in METHODS.items() if not row.needs_uniform_gradients | row.needs_varying_gradients]
)
def test_methods_for_every_layer_need_no_probe(fresh: Model, method: str) -> None:
    """`resolve` does not run the network, so that it may be called on the event loop."""
    assert not needs_probe(fresh, Question(methods=(method,)))
    resolve(fresh, Question(methods=(method,)))
    assert not fresh.network.knows_linearity(fresh.manifest.layers[0])


def test_layer_without_tail_needs_no_probe(load: Load) -> None:
    assert not needs_probe(load("no-gradients"), Question(methods=("cam",)))
