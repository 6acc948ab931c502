"""The requests of a method run, and their batches."""

import numpy as np
import pytest

from percept.explain.methods import protocol
from percept.explain.methods.protocol import MethodRun, NetworkRequest, PassResult, TailRequest
from tests.method_runs import run_method
from tests.percept.explain.synthetic_network import SyntheticNetwork, batch_size


def test_run_executes_requests_and_returns_the_map() -> None:
    def run() -> MethodRun:
        first = yield TailRequest(np.zeros((1, 1, 1, 1), np.float32), gradients=True)
        second = yield NetworkRequest(np.zeros((2, 1, 1, 3), np.uint8))
        return np.append(first.y, second.y)

    found = run_method(
        run(),
        lambda request: PassResult(np.array([1.0])),
        lambda request: PassResult(np.array([2.0, len(request.pixels)])),
    )
    np.testing.assert_array_equal(found, [1, 2, 2])


@pytest.mark.parametrize("name", ["reciprocam", "ablationcam", "integrated_gradients", "smoothgrad"])
def test_batches_of_large_activations_are_smaller(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    network = SyntheticNetwork()
    inputs = network.inputs(network.noise())
    expected = network.compute_map(name, inputs)
    for limit, size in ((3 * inputs.A.nbytes, 3), (1, 1)):
        monkeypatch.setattr(protocol, "MAX_BATCH_BYTES", limit)
        network.requests.clear()
        inputs = network.inputs(network.noise())
        np.testing.assert_allclose(network.compute_map(name, inputs), expected, rtol=1e-5, atol=1e-6)
        assert max(map(batch_size, network.requests)) == size
