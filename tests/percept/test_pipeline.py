"""The pipeline runs images through a loaded model: one admission, one deadline, and a cache of images."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from percept.errors import BrokenImage, DeadlineExceeded, NotAnImage, PerceptError, QueueFull, UnknownImage
from percept.explain.features import FeatureOutput
from percept.explain.presentation import CamOutput, Style
from percept.explain.question import Question
from percept.pipeline import Pipeline, PostedImage, Predicted
from percept.runtime.execution_plan import ExecutionPlan, create_worker_pools
from percept.runtime.model import Model, load_model
from percept.runtime.network import Network
from percept.settings import Settings
from tests.percept.runtime.gate import run
from tests.photos import draw_marker, encode_photo

DATA = encode_photo(draw_marker((150, 110), (40, 30), 14))
SETTINGS = Settings(deadline_s=0.5)


@pytest.fixture
def create(bundles: Path) -> Iterator[Callable[[int], tuple[Pipeline, Model]]]:
    """A function that creates a pipeline with a number of threads, and loads a classifier for it."""
    opened = []

    def create(threads: int) -> tuple[Pipeline, Model]:
        plan = ExecutionPlan("cpu", threads, 1, 1, 1)
        pools = create_worker_pools(plan, threads)
        opened.append(pools)
        return Pipeline(SETTINGS, pools.host), load_model(bundles / "classification-squeeze" / "1", plan, pools)

    yield create
    for pools in opened:
        pools.close()


Create = Callable[[int], tuple[Pipeline, Model]]


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[frozenset[str]]:
    """The outputs that each pass of a trunk computed."""
    found: list[frozenset[str]] = []
    run_trunk = Network.run_trunk

    def record(network: Network, inputs: Any, alone: bool = True) -> Any:
        found.extend(one.outputs for one in inputs)
        return run_trunk(network, inputs, alone)

    monkeypatch.setattr(Network, "run_trunk", record)
    return found


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each pass of a trunk takes 0.2 s."""
    run_trunk = Network.run_trunk

    def sleep(network: Network, inputs: Any, alone: bool = True) -> Any:
        time.sleep(0.2)
        return run_trunk(network, inputs, alone)

    monkeypatch.setattr(Network, "run_trunk", sleep)


async def admitted(pipeline: Pipeline, model: Model, work: Callable[[asyncio.Timeout], Awaitable[Any]]) -> Any:
    """The result of work within an admission."""
    async with pipeline.admit(model) as deadline:
        return await work(deadline)


def test_full_queue_admits_no_request(create: Create) -> None:
    async def fill() -> None:
        async with pipeline.admit(model), pipeline.admit(model):
            with pytest.raises(QueueFull):
                async with pipeline.admit(model):
                    pass

    pipeline, model = create(1)
    run(fill())


def test_work_is_cancelled_at_the_deadline(create: Create) -> None:
    pipeline, model = create(1)
    start = time.perf_counter()
    with pytest.raises(DeadlineExceeded, match=r"0\.5 s"):
        run(admitted(pipeline, model, lambda _: asyncio.sleep(5)))
    assert 0.5 <= time.perf_counter() - start < 1.5


def test_each_image_has_its_own_result_or_error(create: Create) -> None:
    pipeline, model = create(2)
    images = [PostedImage(model, data) for data in (DATA, b"no image", DATA[:99], DATA)]
    found = run(admitted(pipeline, model, lambda deadline: pipeline.predict_each(images, 2, deadline)))
    assert [type(one) for one in found] == [Predicted, NotAnImage, BrokenImage, Predicted]
    assert len(found[0].answer.predictions) == 2


def test_images_of_one_request_run_concurrently(create: Create, slow: None) -> None:
    pipeline, model = create(4)
    images = [PostedImage(model, DATA) for _ in range(4)]
    start = time.perf_counter()
    found = run(admitted(pipeline, model, lambda deadline: pipeline.predict_each(images, 5, deadline)))
    assert [type(one) for one in found] == [Predicted] * 4
    assert time.perf_counter() - start < 0.7, "the sum is 0.8 s"


def test_late_image_fails_and_finished_ones_are_kept(create: Create, slow: None) -> None:
    pipeline, model = create(1)
    images = [PostedImage(model, DATA) for _ in range(4)]
    found = run(admitted(pipeline, model, lambda deadline: pipeline.predict_each(images, 5, deadline)))
    assert [type(one) for one in found] == [Predicted, Predicted, DeadlineExceeded, DeadlineExceeded]


def test_inference_needs_all_images(create: Create) -> None:
    pipeline, model = create(2)
    results = run(pipeline.infer(model, [DATA, DATA], frozenset({"logits", "colour"})))
    assert [set(one.outputs) for one in results] == [{"logits", "colour"}] * 2
    with pytest.raises(NotAnImage, match="image 1: "):
        run(pipeline.infer(model, [DATA, b"no image"], frozenset({"logits"})))
    with pytest.raises(PerceptError, match=r"image \d: "):
        run(pipeline.infer(model, [b"no image", b"none either"], frozenset({"logits"})))


def test_request_runs_one_pass_with_the_outputs_it_needs(create: Create, passes: list[frozenset[str]]) -> None:
    pipeline, model = create(1)
    passes.clear()
    run(pipeline.predict(PostedImage(model, DATA)))
    run(pipeline.features(PostedImage(model, DATA), model.manifest.layers[0], FeatureOutput("npy")))
    question = run(pipeline.resolve(model, Question()))
    run(pipeline.explain(PostedImage(model, DATA), question, CamOutput("jpeg", Style())))
    assert passes == [{"logits"}, {"colour"}, {"logits", "colour"}]


def test_second_response_about_a_cached_image_needs_no_pass(create: Create, passes: list[frozenset[str]]) -> None:
    pipeline, model = create(1)
    image = PostedImage(model, DATA)
    sent = run(pipeline.predict(image))
    question = run(pipeline.resolve(model, Question()))
    passes.clear()
    first = run(pipeline.explain(pipeline.cached_image(image.id), question, CamOutput("npy", Style())))
    assert passes == [model.all_outputs], "the first response caches all outputs"
    second = run(pipeline.explain(pipeline.cached_image(image.id), question, CamOutput("npy", Style())))
    predicted = run(pipeline.predict(pipeline.cached_image(image.id)))
    assert len(passes) == 1
    assert first.encoded == second.encoded
    assert predicted.answer == sent.answer


def test_failed_image_is_not_cached(create: Create) -> None:
    pipeline, model = create(1)
    image = PostedImage(model, b"no image")
    with pytest.raises(NotAnImage):
        run(pipeline.predict(image))
    with pytest.raises(UnknownImage):
        pipeline.cached_image(image.id)


def test_pixels_are_not_cached(create: Create) -> None:
    pipeline, model = create(1)
    image = PostedImage(model, np.zeros((64, 48, 3), np.uint8))
    assert isinstance(run(pipeline.predict(image)), Predicted)
    with pytest.raises(UnknownImage):
        pipeline.cached_image(image.id)
