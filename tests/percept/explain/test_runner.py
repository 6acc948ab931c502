"""The maps of a resolved question, computed by a generator that waits for passes of the whole network."""

import asyncio
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from percept.errors import BadParameter, TargetAbsent
from percept.explain.explanation import Explanation
from percept.explain.methods.protocol import LogitsRequest
from percept.explain.methods.runner import Steps
from percept.explain.question import Question, ResolvedQuestion, resolve
from percept.explain.runner import Progress, advance, drive, explain
from percept.runtime.model import ONLY_LOGITS, Model
from percept.runtime.network import TrunkInput
from percept.runtime.session import Arrays
from percept.settings import Settings
from percept.tasks.input_image import InputImage, prepare
from tests.photos import draw_marker, encode_photo

Load = Callable[[str], Model]
RED, BLUE = (255, 0, 0), (0, 0, 255)


def draw_two_markers() -> bytes:
    """A red square on the left and a smaller blue one on the right."""
    photo = draw_marker((150, 110), (40, 30), 16, RED)
    photo.paste(BLUE, (100, 70, 120, 90))
    return encode_photo(photo)


DATA = draw_two_markers()


def start(model: Model, question: Question, data: bytes = DATA) -> tuple[ResolvedQuestion, InputImage, Arrays]:
    """Run the trunk on an image with the outputs that a question needs."""
    resolved, image = resolve(model, question), prepare(model, data, "id", Settings())
    [outputs] = model.network.run_trunk([TrunkInput(image.pixels, resolved.outputs)])
    return resolved, image, outputs


def finish(steps: Steps[Any], model: Model) -> tuple[Any, int]:
    """Run a generator to its end on this thread; also returns the number of images that it requested."""
    progress, images = advance(steps), 0
    while progress.wait is not None:
        reply = None
        if isinstance(progress.wait, LogitsRequest):
            inputs = [TrunkInput(one, ONLY_LOGITS) for one in progress.wait.pixels]
            reply = np.stack([model.network.run_trunk([one])[0]["logits"] for one in inputs])
            images += len(inputs)
        progress = advance(steps, reply)
    return progress.value, images


def explain_all(model: Model, question: Question, data: bytes = DATA) -> list[Explanation]:
    """The explanations of an image."""
    maps: list[Explanation] = finish(explain(*start(model, question, data)), model)[0]
    return maps


def test_maps_are_ordered_by_method_layer_and_class(load: Load) -> None:
    question = Question(methods=("gradcam", "eigencam"), layers=("stage1", "stage2"), targets=("cat", "dog"))
    found = [(one.method, one.layer, one.target) for one in explain_all(load("cifar10"), question)]
    assert found == [
        (method, layer, target)
        for method in ("gradcam", "eigencam")
        for layer in ("stage1", "stage2")
        for target in (3, 5)
    ]


def test_top_classes_are_explained_without_targets(load: Load) -> None:
    maps = explain_all(load("classification-squeeze"), Question(top=2))
    assert [one.target for one in maps] == [0, 2]
    assert maps[0].score > maps[1].score


def test_map_is_that_of_the_class(load: Load) -> None:
    for target, peak in (("red", (4, 3)), ("blue", (11, 8))):
        [found] = explain_all(load("classification-squeeze"), Question(targets=(target,)))
        assert found.heat.max() == 1
        assert found.heat[peak] > 0.5
        np.testing.assert_allclose(found.heat, np.maximum(found.raw, 0) / found.raw.max(), rtol=1e-5)


def test_map_against_a_class_is_the_difference_of_maps(load: Load) -> None:
    """HiResCAM is linear in the seed."""
    model = load("classification-squeeze")
    red, blue = explain_all(model, Question(methods=("hirescam",), targets=("red", "blue")))
    [difference] = explain_all(model, Question(methods=("hirescam",), targets=("red",), against="blue"))
    np.testing.assert_allclose(difference.raw, red.raw - blue.raw, atol=1e-6)
    assert (difference.target, difference.against) == (0, 2)


def test_fused_layers_give_one_map(load: Load) -> None:
    [fused] = explain_all(load("cifar10"), Question(layers=("stage1+stage2",)))
    finest = max(load("cifar10").manifest.layers[-2:], key=lambda layer: layer.shape[1]).shape[1:]
    assert fused.layer == "stage1+stage2"
    assert fused.raw.shape == fused.heat.shape == tuple(finest)


def test_region_selects_the_pixels_to_explain(load: Load) -> None:
    model = load("segmentation-squeeze")
    question = Question(methods=("hirescam",), targets=("blue",), place=(90, 60, 130, 100))
    [found] = explain_all(model, question)
    assert found.raw[:, :6].max() == 0
    assert found.raw[11, 8] > 0
    [point] = explain_all(model, Question(place=(40, 30, 40, 30)))
    assert point.target == model.manifest.labels.index("red"), "the class that is predicted at the point"


def test_unseen_place_is_an_error(load: Load) -> None:
    """A centre crop drops the sides of a wide photo."""
    wide = encode_photo(draw_marker((300, 80), (150, 40), 10, RED))
    with pytest.raises(BadParameter, match="does not see the photo at 2, 40"):
        explain_all(load("segmentation-crop"), Question(place=(2, 40, 2, 40)), wide)


def test_absent_class_is_an_error(load: Load) -> None:
    with pytest.raises(TargetAbsent, match="'green'; present are ground, red, blue"):
        explain_all(load("segmentation-squeeze"), Question(targets=("green",)))


def test_effective_field_adds_the_influence_of_each_pixel(load: Load) -> None:
    [found] = explain_all(load("cifar10"), Question(effective=True))
    assert found.influence is not None
    assert found.influence.shape == (32, 32)
    [plain] = explain_all(load("cifar10"), Question())
    assert plain.influence is None


def test_faithfulness_is_measured_by_passes_of_the_network(load: Load) -> None:
    model = load("classification-squeeze")
    [found], images = finish(explain(*start(model, Question(faithfulness=True))), model)
    assert found.faithfulness is not None
    assert images > 10
    [plain], images = finish(explain(*start(model, Question())), model)
    assert plain.faithfulness is None
    assert images == 0


def test_gradient_method_ends_without_a_wait(load: Load) -> None:
    progress = advance(explain(*start(load("classification-squeeze"), Question())))
    assert progress.wait is None
    assert progress.value is not None


def test_perturbation_method_waits_for_the_network(load: Load) -> None:
    model = load("classification-squeeze")
    progress = advance(explain(*start(model, Question(methods=("rise",)))))
    assert isinstance(progress.wait, LogitsRequest)
    assert progress.value is None
    assert progress.wait.pixels.shape[1:] == (64, 48, 3)


def test_drive_runs_passes_through_the_queue_of_the_model(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    model, submitted, jobs = load("classification-squeeze"), [], []
    question = Question(methods=("rise",), targets=("red",))
    expected, images = finish(explain(*start(model, question)), model)
    submit = model.queue.submit

    async def count_submit(*functions: Any) -> Any:
        submitted.append(functions)
        return await submit(*functions)

    async def run_on_worker(function: Callable[..., Any], *arguments: Any) -> Any:
        jobs.append(function)
        return function(*arguments)

    monkeypatch.setattr(model.queue, "submit", count_submit)
    steps = explain(*start(model, question))
    found = asyncio.run(drive(advance(steps), model, run_on_worker))
    np.testing.assert_allclose(found[0].raw, expected[0].raw, rtol=1e-4, atol=1e-6)
    assert len(submitted) == images, "one entry for each image"
    assert set(jobs) == {advance}


def test_drive_returns_a_finished_value_at_once(load: Load) -> None:
    def fail(*_: Any) -> Any:
        raise AssertionError("no further job is needed")

    progress = Progress(iter(()), None, 7)  # type: ignore[arg-type]
    assert asyncio.run(drive(progress, load("classification-squeeze"), fail)) == 7


def test_cancelled_explanation_does_nothing_more(load: Load) -> None:
    model, jobs = load("classification-squeeze"), []

    async def run_on_worker(function: Callable[..., Any], *arguments: Any) -> Any:
        jobs.append(function)
        return function(*arguments)

    async def cancel_early() -> None:
        progress = advance(explain(*start(model, Question(methods=("rise",)))))
        async with asyncio.timeout(0.02):
            await drive(progress, model, run_on_worker)

    async def main() -> None:
        with pytest.raises(TimeoutError):
            await cancel_early()
        done = len(jobs)
        await asyncio.sleep(0.1)
        assert len(jobs) == done
        assert model.queue.depth == 0

    asyncio.run(main())
