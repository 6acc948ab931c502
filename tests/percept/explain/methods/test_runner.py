"""The method runner mixes several seeds in passes, and yields the thread at the end of each time slice."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from percept.explain.methods import runner
from percept.explain.methods.protocol import LogitsRequest
from percept.explain.methods.runner import PAUSE, MethodRunner
from percept.explain.methods.table import METHODS
from percept.runtime.model import ONLY_LOGITS, Model
from percept.runtime.network import Network, TrunkInput
from percept.settings import Settings
from percept.tasks.input_image import prepare
from tests.bundles import find_layer
from tests.photos import draw_marker, encode_photo

DATA = encode_photo(draw_marker((150, 110), (40, 30), 16))
Load = Callable[[str], Model]


def run(model: Model, method: str, classes: list[int]) -> tuple[list[np.ndarray], list[Any]]:
    """The map of each class at the CAM layer, and what the runner waited for."""
    layer = find_layer(model.manifest)
    image = prepare(model, DATA, "id", Settings())
    [outputs] = model.network.run_trunk([TrunkInput(image.pixels, model.network.outputs_for_gradients(layer))])
    seeds = list(np.eye(len(model.manifest.labels), dtype=np.float32)[classes])
    steps, waits = MethodRunner(image, outputs, seeds).run(METHODS[method], layer), []
    try:
        wait = next(steps)
        while True:
            waits.append(wait)
            reply = None
            if isinstance(wait, LogitsRequest):
                reply = np.stack(
                    [model.network.run_trunk([TrunkInput(one, ONLY_LOGITS)])[0]["logits"] for one in wait.pixels]
                )
            wait = steps.send(reply)
    except StopIteration as end:
        return end.value, waits


@pytest.mark.parametrize("method", ["gradcam", "ablationcam", "reciprocam", "eigencam", "scorecam", "occlusion"])
def test_maps_of_several_seeds_are_those_of_each(load: Load, method: str) -> None:
    model = load("cifar10")
    together, _ = run(model, method, [3, 5])
    for map_, target in zip(together, [3, 5], strict=True):
        [alone], _ = run(model, method, [target])
        np.testing.assert_allclose(map_, alone, rtol=1e-3, atol=1e-4)


def test_seeds_share_the_images_of_the_network(load: Load) -> None:
    _, one = run(load("cifar10"), "occlusion", [3])
    _, three = run(load("cifar10"), "occlusion", [3, 5, 7])
    assert len(one) == len(three) > 0


def test_seeds_share_passes_of_the_tail(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes, run_tail = [], Network.run_tail

    def record(network: Network, layer: Any, outputs: Any, activations: np.ndarray, *arguments: Any) -> Any:
        sizes.append(len(activations))
        return run_tail(network, layer, outputs, activations, *arguments)

    model = load("cifar10")
    run(model, "ablationcam", [3, 5])  # the tail is loaded
    monkeypatch.setattr(Network, "run_tail", record)
    monkeypatch.setattr(runner, "MAX_PASS_S", 10)
    run(model, "gradcam", [3, 5, 7])
    assert max(sizes) > 1
    assert sum(sizes) == 3


def test_runner_pauses_at_the_end_of_a_time_slice(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "SLICE_S", 0)
    _, waits = run(load("cifar10"), "gradcam", [3])
    assert waits == [PAUSE]
    monkeypatch.setattr(runner, "SLICE_S", 10)
    _, waits = run(load("cifar10"), "gradcam", [3])
    assert waits == []


def test_slow_passes_make_batches_smaller(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes, run_tail = [], Network.run_tail

    def record(network: Network, layer: Any, outputs: Any, activations: np.ndarray, *arguments: Any) -> Any:
        sizes.append(len(activations))
        return run_tail(network, layer, outputs, activations, *arguments)

    monkeypatch.setattr(Network, "run_tail", record)
    for limit, expected in ((0, 1), (10, 16)):
        monkeypatch.setattr(runner, "MAX_PASS_S", limit)
        sizes.clear()
        run(load("cifar10"), "gradcam", list(range(10)) * 4)
        assert max(sizes) == expected
        assert sum(sizes) == 40
