"""What every row of METHODS must fulfil, on synthetic networks whose results can be computed another way."""

import re

import numpy as np
import pytest

from percept.explain.methods.protocol import MAX_BATCH, MethodInput, NetworkRequest, TailRequest
from percept.explain.methods.table import METHODS, Method
from tests.method_runs import run_method
from tests.percept.explain.synthetic_network import SyntheticNetwork, batch_size


@pytest.mark.parametrize("row", METHODS.values(), ids=METHODS)
def test_method_docstrings_state_equation_and_paper(row: Method) -> None:
    text = row.run.__doc__ or ""
    first = text.splitlines()[0]
    assert re.search(r": .*(sum_k|max_k|_ij =|M =|X v)", first), first
    paper, source = row.paper.split(", ")
    author, year = paper.split()
    assert re.search(rf"{author}.* {year}, {re.escape(source)}", text)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("shape", [(6, 4, 3), (200, 3, 5), (2, 40, 41), (3, 1, 1)])
def test_methods_request_what_they_declare_in_bounded_batches(name: str, shape) -> None:
    network = SyntheticNetwork(shape=shape, scale=1 if shape[1] > 9 else 4)
    network.compute_map(name, network.inputs(network.noise()))
    expected = {
        "activations": set(),
        "gradients": {(TailRequest, True)},
        "tail": {(TailRequest, False)},
        "image": {(NetworkRequest, None)},
    }
    assert {(type(one), getattr(one, "gradients", None)) for one in network.requests} == expected[METHODS[name].needs]
    sizes = [batch_size(request) for request in network.requests]
    assert all(0 < n <= MAX_BATCH for n in sizes)


@pytest.mark.parametrize("name", METHODS)
def test_method_runs_can_be_closed_at_any_request(name: str) -> None:
    network = SyntheticNetwork()
    inputs = network.inputs(network.noise())
    run_method(METHODS[name].run(inputs), network.run_tail, network.run_network)
    for count in range(len(network.requests) + 1):
        run = METHODS[name].run(inputs)
        if count:
            request = next(run)
        for _ in range(count - 1):
            request = run.send(network.execute(request))
        run.close()
        with pytest.raises(StopIteration):
            next(run)


@pytest.mark.parametrize("kind", ["linear", "deep"])
@pytest.mark.parametrize("name", METHODS)
def test_maps_of_constant_inputs_are_finite(name: str, kind: str) -> None:
    network = SyntheticNetwork(kind)
    grey = np.full_like(network.noise(), 128)
    inputs = network.inputs(grey)
    assert not inputs.A.any()
    network.compute_map(name, inputs)
    for flat in (1, 1e-9, -3):
        A = np.full_like(inputs.A, flat)
        network.compute_map(name, MethodInput(A, grey, 0, np.random.default_rng(0)))


@pytest.mark.parametrize("name", METHODS)
def test_methods_do_not_change_their_inputs(name: str) -> None:
    network = SyntheticNetwork()
    pixels = network.noise()
    inputs, same = network.inputs(pixels), network.inputs(pixels.copy())
    for array in (inputs.A, inputs.pixels):
        array.setflags(write=False)
    first = network.compute_map(name, inputs)
    np.testing.assert_array_equal(first, network.compute_map(name, same))


@pytest.mark.parametrize("name", METHODS)
def test_maps_depend_on_the_class_as_declared(name: str) -> None:
    network, other = SyntheticNetwork(), SyntheticNetwork()
    other.W2 = -network.W2[::-1] + 1
    pixels = network.noise()
    one, two = (n.compute_map(name, n.inputs(pixels)) for n in (network, other))
    assert np.allclose(one, two) != METHODS[name].class_specific


# The maps of the other two are constant where the gradient is.
CLASS_SENSITIVE = [name for name in METHODS if name not in ("saliency", "smoothgrad")]


def mark_cell(network: SyntheticNetwork, i: int, j: int) -> np.ndarray:
    """A grey image with one cell of the colour for which the linear network has the greatest y."""
    pixels = np.full_like(network.noise(), 120)
    colours = np.array(list(np.ndindex(2, 2, 2))) * 255
    best = (np.maximum(colours @ network.mix, 0) @ network.w).argmax()
    s = network.scale
    pixels[i * s : (i + 1) * s, j * s : (j + 1) * s] = colours[best]
    return pixels


@pytest.mark.parametrize("place", [(0, 0), (3, 5), (7, 6)])
@pytest.mark.parametrize("name", CLASS_SENSITIVE)
def test_methods_find_a_marked_cell(name: str, place: tuple[int, int]) -> None:
    """The peak lies on the marked cell, or beside it for methods with coarse patches and masks."""
    network = SyntheticNetwork("linear", (6, 8, 7))
    network.w = np.abs(network.w)
    inputs = network.inputs(mark_cell(network, *place), blank=(120, 120, 120))
    found = network.compute_map(name, inputs)
    peak = np.unravel_index(found.argmax(), found.shape)
    assert np.abs(np.subtract(peak, place)).max() <= (1 if name in ("occlusion", "rise") else 0)
    assert found[place] > 0.9 * found.max() > 0


@pytest.mark.parametrize("shape", [(6, 4, 3), (4, 7, 7), (1, 1, 5)])
@pytest.mark.parametrize("name", ["gradcam", "hirescam", "integrated_gradients", "reciprocam"])
def test_behind_average_pooling_methods_equal_cam_over_cells(name: str, shape) -> None:
    network = SyntheticNetwork("linear", shape)
    inputs = network.inputs(network.noise())
    expected = network.compute_map("cam", inputs) / inputs.A[0].size
    np.testing.assert_allclose(
        network.compute_map(name, inputs), expected, rtol=1e-4, atol=2e-6 * np.abs(expected).max() + 1e-7
    )


@pytest.mark.parametrize("name", ["reciprocam", "ablationcam", "integrated_gradients"])
def test_linear_tails_need_one_pass(name: str) -> None:
    network = SyntheticNetwork("linear")
    long, short = (network.inputs(network.noise(), linear=linear) for linear in (False, True))
    expected = network.compute_map(name, long)
    network.requests.clear()
    np.testing.assert_allclose(
        network.compute_map(name, short), expected, rtol=1e-4, atol=2e-6 * np.abs(expected).max()
    )
    assert len(network.requests) == 1
