"""Maps in any layout: found by data flow and exposed as [N,C,h,w]; tokens that the logits do not use."""

from collections.abc import Mapping

import numpy as np
import onnx
import pytest
from onnx import helper

from percept_models.autodiff.tail import LOGITS, build_tail
from percept_models.graph.execution import run
from percept_models.graph.flow import DataFlow
from percept_models.graph.layout import Layout, expose_maps, rename_tensors
from percept_models.graph.reader import Array, Graph
from percept_models.graph.stages import Nesting, suggest_layers
from tests.percept_models.graph.graphs import (
    GRID,
    SIZE,
    Network,
    channels_last_network,
    keras_network,
    vision_transformer,
)

PIXELS = np.random.default_rng(0).integers(0, 256, (2, *SIZE, 3), np.uint8)


def suggestions(graph: Graph) -> list[str]:
    """The layers suggested of all tensors of a graph."""
    return suggest_layers(graph, "classification", dict.fromkeys(graph.producer, Nesting()))


def outputs(model: onnx.ModelProto, *names: str) -> Mapping[str, Array]:
    """Tensors of a model for random images, by name."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    return run(copy, {"pixels": PIXELS})


def test_copy_in_channels_last_is_no_layer() -> None:
    """The last four-dimensional tensor of a Keras network; a map of it would be stripes."""
    graph, channels_first, channels_last = keras_network()
    flow = DataFlow(graph, LOGITS)
    assert flow.layout(channels_last) == Layout("NHWC", 6, *GRID)
    assert suggestions(graph)[-1] == channels_first


def test_map_only_in_channels_last_is_a_layer() -> None:
    graph, last = channels_last_network()
    assert suggestions(graph) == [last]


def test_transformer_ends_with_the_input_of_its_last_attention() -> None:
    """Behind the class token the cells of the last block have no gradient: its attention's input is the last map."""
    graph, blocks, normalized = vision_transformer(depth=4)
    flow = DataFlow(graph, LOGITS)
    assert flow.layout(blocks[0]) == Layout("NTC", 8, *GRID, prefix=1)
    assert [flow.uses_cells(name) for name in blocks] == [True, True, True, False]
    *found, last = suggestions(graph)
    assert last == normalized[3]
    assert found[0] == blocks[0]
    assert len(found) == 3
    assert {graph.producer[name].op_type for name in found} == {"Add"}


def test_pooled_transformer_ends_with_its_norm() -> None:
    graph, blocks, normalized = vision_transformer(depth=4, class_token=False)
    assert all(map(DataFlow(graph, LOGITS).uses_cells, blocks))
    assert suggestions(graph) == [*blocks[:3], normalized[4]]


def test_mixed_tokens_have_no_grid() -> None:
    """Tokens that a product reduces to fewer ones are no cells, and a network that goes on with them says so."""
    network = Network()
    stem = network.conv(network.image(), 3, 8, size=4, stride=4)
    tokens = network.linear(network.reshape(stem, 0, 8, -1), GRID[0] * GRID[1], 10)
    x, _ = network.block(network.op.Transpose(tokens, perm=[0, 2, 1]), 8)
    graph = network.finish(network.mean(x, 1), 8)
    flow = DataFlow(graph, LOGITS)
    assert flow.layout(x) is None
    assert suggestions(graph) == [stem]
    assert flow.loses_grid_after(stem)
    assert not DataFlow(channels_last_network()[0], LOGITS).loses_grid_after(channels_last_network()[1])


def test_attention_map_of_one_channel_is_no_layer() -> None:
    network = Network()
    x = network.conv(network.image(), 3, 8, size=4, stride=4)
    attention = network.op.Sigmoid(network.op.Conv(x, network.weights(1, 8, 1, 1)))
    graph = network.finish(network.mean(network.op.Mul(x, attention), 2, 3), 8)
    flow = DataFlow(graph, LOGITS)
    assert not flow.is_feature_map(attention)
    assert flow.is_feature_map(x)


@pytest.mark.parametrize("order", ["NHWC", "NTC", "NCT"])
@pytest.mark.parametrize("prefix", [0, 2])
def test_exposed_map_is_on_the_path_of_the_data(order: str, prefix: int) -> None:
    """It holds the cells of the tensor, the logits stay, and its gradient is that of the cells alone."""
    if order == "NHWC" and prefix:
        pytest.skip("only tokens have others before them")
    network, (h, w), (_, height, width) = Network(), GRID, (0, *GRID)
    x = network.conv(network.image(), 3, 8, size=4, stride=4)
    if order == "NHWC":
        tensor = network.op.Transpose(x, perm=[0, 2, 3, 1])
        pooled = network.mean(network.op.Mul(tensor, network.weights(h, w, 8)), 1, 2)
    else:
        tokens = network.reshape(x, 0, 8, h * w)
        for _ in range(prefix):
            tokens = network.op.Concat(
                network.mean(x, 2, 3) and network.op.ReduceMax(tokens, network.ints(2)), tokens, axis=2
            )
        tensor = tokens if order == "NCT" else network.op.Transpose(tokens, perm=[0, 2, 1])
        axis = order.index("T")
        shape = (8, h * w + prefix) if order == "NCT" else (h * w + prefix, 8)
        pooled = network.mean(network.op.Mul(tensor, network.weights(*shape)), axis)
    graph = network.finish(pooled, 8)
    layout = Layout(order, 8, height, width, prefix)  # type: ignore[arg-type]
    exposed = expose_maps(graph.model, {tensor: layout})
    found, plain = outputs(exposed, tensor), outputs(graph.model, tensor, x)
    np.testing.assert_allclose(found["logits"], plain["logits"], atol=1e-6)
    np.testing.assert_array_equal(found[tensor], plain[x])
    tail, crossing = build_tail(Graph(exposed), tensor)
    feeds = {name: outputs(exposed, name)[name] for name in crossing}
    seed = np.random.default_rng(1).standard_normal(plain["logits"].shape).astype(np.float32)
    A, e = found[tensor], np.zeros_like(found[tensor])
    e[:, 3, 1, 2] = 1e-2
    run_tail = lambda A: run(tail, {"activations": A, "seed": seed, **feeds})  # noqa: E731
    g = run_tail(A)["gradients"]
    change = ((run_tail(A + e)["logits"] - run_tail(A - e)["logits"]) * seed).sum(1) / 2e-2
    np.testing.assert_allclose(g[:, 3, 1, 2], change, rtol=1e-3, atol=1e-4)


def test_renamed_tensor_keeps_its_value() -> None:
    graph, x, _ = keras_network()
    renamed = rename_tensors(graph.model, {x: "stage2_4x6"})
    np.testing.assert_array_equal(outputs(renamed, "stage2_4x6")["stage2_4x6"], outputs(graph.model, x)[x])
