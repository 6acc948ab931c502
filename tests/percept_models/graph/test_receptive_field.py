"""Receptive fields against tables computed by hand, and against where gradients really are."""

from collections.abc import Callable, Mapping

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from torch import Tensor, nn

from percept.bundle.manifest import Preprocessing
from percept_models.autodiff.reverse import tail
from percept_models.graph.reader import OPSET, Array, Builder, Graph, run
from percept_models.graph.receptive_field import ELEMENTWISE, STEPS, Field, fields
from percept_models.sources.trunk import trace
from tests.percept_models import torch_gradients  # noqa: F401  # lets torchvision be imported
from tests.percept_models.networks import HOW, Pyramid

# Known networks


def zoo(name: str, **other: object) -> nn.Module:
    """One of torchvision's networks with few classes."""
    return __import__("torchvision").models.get_model(name, weights=None, num_classes=3, **other)


def alexnet() -> nn.Module:
    """The convolutions of AlexNet; 55 million parameters behind them are never made."""
    with torch.device("meta"):
        body = zoo("alexnet").features
    for parameter in body.to_empty(device="cpu").parameters():
        nn.init.uniform_(parameter, 0, 0.01)
    return Headed(body)


def vgg16() -> nn.Module:
    """The convolutions of VGG-16, narrow: the fields do not depend on the width."""
    widths = [n for width, count in ((2, 2), (3, 2), (4, 3), (4, 3), (4, 3)) for n in (*[width] * count, "M")]
    return Headed(__import__("torchvision").models.vgg.make_layers(widths))


def resnet50(early: bool = False) -> nn.Module:
    """ResNet-50; `early` strides in the first convolution of a block as the paper does, not in the second."""
    network = zoo("resnet50", width_per_group=4)
    for name, module in network.named_modules():
        if early and name.endswith(".0") and hasattr(module, "conv2"):
            module.conv1.stride, module.conv2.stride = module.conv2.stride, (1, 1)
    return network


def convnext_tiny() -> nn.Module:
    """ConvNeXt-Tiny, narrow."""
    module = __import__("torchvision").models.convnext
    stages = [(4, 4, 3), (4, 8, 3), (8, 8, 9), (8, None, 3)]
    return module.ConvNeXt([module.CNBlockConfig(*row) for row in stages], num_classes=3)


class Headed(nn.Module):
    """A network with a head, so that it has logits."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        """Compute the output."""
        return self.body(x).mean((2, 3))


# network -> layer -> stride, size, start. Sizes and strides at the ends: Araujo et al. 2019 (AlexNet v2 195/32,
# VGG-16 212/32, ResNet v1-50 483/32, Inception v3 1311/32); the stages between: r += (k - 1) * s by hand.
TABLE: Mapping[str, tuple[Callable[[], nn.Module], int, Mapping[str, tuple[int, int, float]]]] = {
    "alexnet": (
        alexnet,
        127,
        {
            "body.0": (4, 11, 3.5),
            "body.2": (8, 19, 7.5),
            "body.3": (8, 51, 7.5),
            "body.5": (16, 67, 15.5),
            "body.6": (16, 99, 15.5),
            "body.8": (16, 131, 15.5),
            "body.10": (16, 163, 15.5),
            "body.12": (32, 195, 31.5),
        },
    ),
    "vgg16": (
        vgg16,
        64,
        {
            "body.4": (2, 6, 1.0),
            "body.9": (4, 16, 2.0),
            "body.16": (8, 44, 4.0),
            "body.23": (16, 100, 8.0),
            "body.28": (16, 196, 8.0),
            "body.30": (32, 212, 16.0),
        },
    ),
    "resnet50": (  # as torchvision strides
        resnet50,
        64,
        {
            "conv1": (2, 7, 0.5),
            "maxpool": (4, 11, 0.5),
            "layer1": (4, 35, 0.5),
            "layer2": (8, 91, 0.5),
            "layer3": (16, 267, 0.5),
            "layer4": (32, 427, 0.5),
        },
    ),
    "resnet50_v1": (  # as the paper strides
        lambda: resnet50(early=True),
        64,
        {"layer1": (4, 35, 0.5), "layer2": (8, 99, 0.5), "layer3": (16, 291, 0.5), "layer4": (32, 483, 0.5)},
    ),
    "convnext_tiny": (
        convnext_tiny,
        64,
        {
            "features.0": (4, 4, 2.0),
            "features.1": (4, 76, 2.0),
            "features.2": (8, 80, 4.0),
            "features.3": (8, 224, 4.0),
            "features.5": (16, 1096, 8.0),
            "features.7": (32, 1688, 16.0),
        },
    ),
    "inception_v3": (
        lambda: zoo("inception_v3", aux_logits=False, init_weights=False, transform_input=True),
        96,
        {"maxpool1": (4, 15, 5.5), "maxpool2": (8, 31, 13.5), "Mixed_7c": (32, 1311, 37.5)},
    ),
}
HEAVY = {"resnet50_v1", "inception_v3"}


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.prove] if n in HEAVY else []) for n in TABLE])
def test_known_networks(name: str) -> None:
    """The fields of every stage are those of the tables, along both axes."""
    make, size, layers = TABLE[name]
    assert reached(make(), size, *layers) == dict(layers)


def reached(network: nn.Module, size: int, *layers: str) -> dict[str, tuple[float, int, float]]:
    """Layer -> stride, size and start along x, after checking that y has the same."""
    found = fields(Graph(trace(network.eval(), Preprocessing(height=size, width=size), layers)))
    answer = {}
    for layer in layers:
        field = found[layer]
        assert field.receptive is not None
        assert field.y == field.x._replace(place=-2)
        answer[layer] = field.stride[0], field.receptive.size[0], field.receptive.start[0]
    return answer


def conv(size: int, stride: int = 1, padding: int = 0, dilation: int = 1, width: int = 2) -> nn.Module:
    """A convolution of two channels."""
    return nn.Conv2d(width, 2, size, stride, padding, dilation)


def test_dilation_widens_the_field_and_is_reported() -> None:
    """Three 3x3 convolutions at dilations 1, 2 and 4 see 15 pixels."""
    body = nn.Sequential(conv(3, 1, 1, width=3), conv(3, 1, 2, 2), conv(3, 1, 4, 4))
    graph = Graph(trace(Headed(body), Preprocessing(height=32, width=32), ["body.1", "body.2"]))
    found = fields(graph)
    assert [found[f"body.{i}"].dilation for i in (1, 2)] == [(2, 2), (4, 4)]
    assert reached(Headed(body), 32, "body.2") == {"body.2": (1.0, 15, 0.5)}


def test_transposed_convolution_and_padding() -> None:
    """Upsampling by 2 halves the stride; what is seen stays between the neighbours."""
    body = nn.Sequential(conv(2, 2, width=3), nn.ConvTranspose2d(2, 2, 2, 2), nn.ZeroPad2d(1))
    assert reached(Headed(body), 32, "body.1", "body.2") == {"body.1": (1.0, 3, 0.5), "body.2": (1.0, 3, -0.5)}


def test_a_pyramid_merges_fields() -> None:
    """What is summed sees the union of what its parts see, at the stride of the finest."""
    found = fields(Graph(trace(Pyramid(), HOW, ["stage3", "merge"])))
    coarse, fine = found["stage3"], found["merge"]
    assert coarse.receptive is not None
    assert fine.receptive is not None
    assert (coarse.stride, fine.stride) == ((8.0, 8.0), (2.0, 2.0))
    # lateral 3 sees 15; each bilinear step adds 1.5 strides of 8 and 4, the last convolution 4
    assert (coarse.receptive.size, fine.receptive.size) == ((15, 15), (37, 37))


# What moves a cell

Body = Callable[[Builder, str], str]
SIZE = (24, 20)


def positive(*shape: int) -> Array:
    """Uniform numbers between 0.1 and 1: no sum of them vanishes."""
    return np.random.default_rng(0).uniform(0.1, 1, shape).astype(np.float32)


def ints(b: Builder, *values: int) -> str:
    """The name of an int64 vector."""
    return b.constant(np.array(values, np.int64))


def graph(body: Body, channels: int = 4, size: tuple[int, int] = SIZE) -> Graph:
    """The graph logits = body(x), x [N,C,H,W]."""
    b = Builder(["x", "logits"])
    b.nodes.append(helper.make_node("Identity", [body(b, "x")], ["logits"]))
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", channels, *size])]
    outputs = [helper.make_empty_tensor_value_info("logits")]
    made = helper.make_graph(b.nodes, "body", inputs, outputs, list(b.constants.values()))
    return Graph(helper.make_model(made, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8))


def moved(g: Graph, axis: int, place: int) -> Array:
    """Which pixels along an axis of x move which cells along an axis of the logits: [pixels, cells] of bool."""
    full = [size or 1 for size in g.shapes["x"]]
    n = full[axis]
    x = np.repeat(positive(*full), n + 1, axis=0)
    for i in range(n):
        np.moveaxis(x, axis, 1)[i, i] += 5 + 5 * positive(*full[1:axis], *full[axis + 1 :])
    y = run(g.model, {"x": x})["logits"].astype(np.float64)
    change = np.abs(y[:n] - y[n:])
    others = tuple(a for a in range(1, y.ndim) if a != place % y.ndim)
    return np.asarray(change.max(others) > 1e-5 * np.abs(y).max())


def sloped(g: Graph, axis: int, place: int) -> Array:
    """The same by gradients, exactly: which are zero, and which are not."""
    full, cells = ([size or 1 for size in g.shapes[name]] for name in ("x", "logits"))
    n = cells[place]
    one = np.eye(n, dtype=np.float32).reshape(n, *(n if a == place % len(cells) else 1 for a in range(1, len(cells))))
    made, _ = tail(g, "x")
    feeds = {"activations": np.repeat(positive(*full), n, axis=0), "seed": one * positive(*cells)}
    found = np.abs(run(made, feeds)["gradients"])
    return np.asarray(found.max(tuple(a for a in (1, 2, 3) if a != axis)) > 0).T


def bounds(seen: Array, stride: float) -> tuple[float, float]:
    """The union of what the cells see, each relative to its own place: from where to where."""
    cells = [(j, pixels.nonzero()[0]) for j, pixels in enumerate(seen.T) if pixels.any()]
    return min(p[0] - j * stride for j, p in cells), max(p[-1] + 1 - j * stride for j, p in cells)


def check(g: Graph, look: Callable[[Graph, int, int], Array] = moved, exact: bool = True) -> Field:
    """The field of the logits is what really moves them, or holds it."""
    field = fields(g)["logits"]
    for a, axis in ((field.y, 2), (field.x, 3)):
        seen = look(g, axis, a.place)
        if not np.isfinite(a.low):
            assert seen.all()
            continue
        low, high = bounds(seen, a.stride)
        assert low >= a.low - 1e-6
        assert high <= a.high + 1e-6
        if exact:
            assert (low, high) == pytest.approx((a.low, a.high))
    return field


def conv_of(b: Builder, x: str, channels: int, size: int, **how: object) -> str:
    """A convolution of positive weights that keeps the number of channels."""
    return b.op.Conv(x, b.constant(positive(channels, channels, size, size)), **how)


def convnext(b: Builder, x: str) -> str:
    """ConvNeXt's block: channels last between two transposes."""
    y = b.op.Transpose(conv_of(b, x, 4, 3, pads=[1] * 4), perm=[0, 2, 3, 1])
    y = b.op.LayerNormalization(y, b.constant(positive(4)), b.constant(positive(4)), axis=-1)
    y = b.op.MatMul(b.op.Relu(b.op.MatMul(y, b.constant(positive(4, 6)))), b.constant(positive(6, 4)))
    return b.op.Add(x, b.op.Transpose(y, perm=[0, 3, 1, 2]))


def shuffle(b: Builder, x: str) -> str:
    """ShuffleNet's: channels split into groups, which change places."""
    split = b.op.Transpose(b.op.Reshape(x, ints(b, -1, 2, 2, *SIZE)), perm=[0, 2, 1, 3, 4])
    return conv_of(b, b.op.Reshape(split, ints(b, -1, 4, *SIZE)), 4, 3)


def excited(b: Builder, x: str) -> str:
    """Squeeze and excitation by a linear layer on what a global pooling leaves."""
    squeezed = b.op.Reshape(b.op.GlobalAveragePool(x), ints(b, -1, 4))
    gate = b.op.Reshape(b.op.Gemm(squeezed, b.constant(positive(4, 4))), ints(b, -1, 4, 1, 1))
    return b.op.Mul(x, gate)


def focus(b: Builder, x: str) -> str:
    """YOLO's: every second cell, four times, laid side by side as channels."""
    axes, steps, end = ints(b, 2, 3), ints(b, 2, 2), ints(b, 99, 99)
    parts = [b.op.Slice(x, ints(b, i, j), end, axes, steps) for i in (0, 1) for j in (0, 1)]
    return b.op.Concat(*parts, axis=1)


def pooled(b: Builder, x: str) -> str:
    """Adaptive pooling to 5 x 4 as the product of two constant matrices."""
    rows, columns = np.kron(np.eye(6), np.ones((1, 4))), np.kron(np.eye(4), np.ones((5, 1)))
    both = b.op.MatMul(x, b.constant(columns.astype(np.float32)))
    return b.op.MatMul(b.constant(rows.astype(np.float32)), both)


def halves(b: Builder, x: str) -> str:
    """Channels split in two and added again; the second half shifted by one cell."""
    first, second = b.write("Split", (x, ints(b, 2, 2)), 2, axis=1)
    right = b.op.Slice(b.op.Pad(second, ints(b, 0, 0, 0, 1, 0, 0, 0, 0)), ints(b, 0), ints(b, SIZE[1]), ints(b, 3))
    return b.op.Add(first, right)


def linear(b: Builder, x: str, **how: object) -> str:
    """Resize to twice the height and three times the width."""
    return b.op.Resize(x, "", b.constant(np.array([1, 1, 2, 3], np.float32)), mode="linear", **how)


def layer_norm(b: Builder, x: str, axis: int, *shape: int) -> str:
    """A layer normalization from an axis on."""
    return b.op.LayerNormalization(x, b.constant(positive(*shape)), axis=axis)


def last(b: Builder, x: str) -> str:
    """The map with channels last."""
    return b.op.Transpose(x, perm=[0, 2, 3, 1])


# Bodies whose field is finite; each is looked at behind a convolution with stride, so that strides must be right.
FINITE: Mapping[str, Body] = {
    "AveragePool": lambda b, x: b.op.AveragePool(x, kernel_shape=[3, 2], strides=[2, 1], pads=[1, 0, 0, 1]),
    "Concat": lambda b, x: b.op.Concat(x, conv_of(b, x, 4, 3, pads=[1] * 4), axis=1),
    "ConvTranspose": lambda b, x: b.op.ConvTranspose(x, b.constant(positive(4, 2, 4, 3)), strides=[2, 1], pads=[1] * 4),
    "DepthToSpace": lambda b, x: b.op.DepthToSpace(x, blocksize=2),
    "Gather": lambda b, x: b.op.Add(x, b.op.Unsqueeze(b.op.Gather(x, b.constant(np.array(1)), axis=1), ints(b, 1))),
    "LayerNormalization": convnext,
    "LayerNormalization last": lambda b, x: layer_norm(b, last(b, x), 3, 4),
    "LogSoftmax": lambda b, x: b.op.LogSoftmax(x, axis=1),
    "LpNormalization": lambda b, x: b.op.LpNormalization(last(b, x)),
    "LpPool": lambda b, x: b.op.LpPool(x, kernel_shape=[2, 3], strides=[1, 2]),
    "MatMul": pooled,
    "MaxPool": lambda b, x: b.op.MaxPool(x, kernel_shape=[3, 2], dilations=[2, 1], pads=[2, 0, 0, 1]),
    "Pad": lambda b, x: b.op.Pad(x, ints(b, 2, 1, -1, 0), "", ints(b, 2, 3)),
    "ReduceL1": lambda b, x: b.op.Mul(x, b.op.ReduceL1(x, ints(b, 1))),
    "ReduceL2": lambda b, x: b.op.ReduceL2(x, ints(b, 1), keepdims=0),
    "ReduceLogSumExp": lambda b, x: b.op.ReduceLogSumExp(x, ints(b, -3)),
    "ReduceMax": lambda b, x: b.op.ReduceMax(last(b, x), ints(b, 3), keepdims=0),
    "ReduceMean": lambda b, x: b.op.Sub(last(b, x), b.op.ReduceMean(last(b, x), ints(b, -1))),
    "ReduceMin": lambda b, x: b.op.ReduceMin(b.op.Neg(x), ints(b, 1)),
    "ReduceProd": lambda b, x: b.op.ReduceProd(x, ints(b, 1)),
    "ReduceSum": lambda b, x: b.op.ReduceSum(x, ints(b, 1), keepdims=0),
    "ReduceSumSquare": lambda b, x: b.op.ReduceSumSquare(x, ints(b, 1)),
    "Reshape": shuffle,
    "Resize": linear,
    "Resize nearest": lambda b, x: b.op.Resize(x, "", "", ints(b, 36, 15), axes=[2, 3]),
    "Slice": lambda b, x: b.op.Slice(x, ints(b, 1, -9), ints(b, 99, -1), ints(b, 2, 3), ints(b, 3, 2)),
    "Slice focus": focus,
    "Softmax": lambda b, x: b.op.Softmax(last(b, x), axis=-1),
    "SpaceToDepth": lambda b, x: b.op.SpaceToDepth(x, blocksize=2),
    "Split": halves,
    "Squeeze": lambda b, x: b.op.Squeeze(b.op.Unsqueeze(x, ints(b, 1, 5)), ints(b, 5)),
    "Tile": lambda b, x: b.op.Tile(x, ints(b, 1, 2, 1, 1)),
    "Transpose": lambda b, x: b.op.Transpose(x, perm=[0, 3, 1, 2]),
    "Unsqueeze": lambda b, x: b.op.Unsqueeze(last(b, x), ints(b, 3)),
}

# Bodies of which every cell sees the whole picture; the strides (y, x) stay known.
INFINITE: Mapping[str, tuple[Body, tuple[float, float]]] = {
    "Expand": (lambda b, x: b.op.Expand(b.op.GlobalAveragePool(x), ints(b, 1, 4, 12, 5)), (2.0, 4.0)),
    "GlobalAveragePool": (lambda b, x: b.op.GlobalAveragePool(x), (24.0, 20.0)),
    "GlobalLpPool": (lambda b, x: b.op.Add(x, b.op.GlobalLpPool(x)), (1.0, 1.0)),
    "GlobalMaxPool": (lambda b, x: b.op.Mul(x, b.op.GlobalMaxPool(x)), (1.0, 1.0)),
    "InstanceNormalization": (
        lambda b, x: b.op.InstanceNormalization(x, b.constant(positive(4)), b.constant(positive(4))),
        (1.0, 1.0),
    ),
    "LayerNormalization": (lambda b, x: layer_norm(b, x, 1, 4, *SIZE), (1.0, 1.0)),
    "ReduceSum": (
        lambda b, x: b.op.Resize(b.op.ReduceSum(x, ints(b, 2, 3)), "", "", ints(b, 6, 2), axes=[2, 3]),
        (4.0, 10.0),
    ),
    "excited": (excited, (1.0, 1.0)),
}


@pytest.mark.parametrize("name", FINITE)
def test_a_field_is_what_moves_a_cell(name: str) -> None:
    """Pixels outside the field of a cell never move it; those at its ends do."""
    field = check(graph(lambda b, x: FINITE[name](b, x)))
    assert field.receptive is not None
    wide = graph(lambda b, x: FINITE[name](b, conv_of(b, x, 4, 3, strides=[2, 2], pads=[1] * 4)), size=(48, 40))
    check(wide, exact="Resize" not in name)


@pytest.mark.parametrize("name", INFINITE)
def test_whoever_sees_everything_has_no_finite_field(name: str) -> None:
    """The strides stay, the field is not stated."""
    body, stride = INFINITE[name]
    field = check(graph(body))
    assert field.receptive is None
    assert field.stride == stride


def test_one_axis_may_see_everything_while_the_other_does_not() -> None:
    """Coordinate attention pools along x only."""
    field = check(graph(lambda b, x: b.op.Mul(x, b.op.ReduceMean(x, ints(b, 3)))))
    assert np.isfinite(field.y.low)
    assert not np.isfinite(field.x.low)


def test_a_single_cell_that_is_repeated_is_seen_from_everywhere() -> None:
    """A finite field spread over a whole map holds what all of it sees."""
    made = graph(lambda b, x: b.op.Tile(conv_of(b, x, 4, 5), ints(b, 1, 1, 5, 2)), size=(5, 5))
    check(made)
    check(graph(lambda b, x: b.op.Add(conv_of(b, x, 4, 5), b.constant(positive(1, 1, 3, 4))), size=(5, 5)))


@pytest.mark.parametrize("operator", ["GridSample", "Einsum", "Flatten", "Transpose of cells", "Concat of rows"])
def test_what_mixes_the_axes_is_not_vouched_for(operator: str) -> None:
    """Behind it no finite field is stated; a map of four axes is taken to show the picture evenly."""
    grid = np.zeros((1, 6, 5, 2), np.float32)
    bodies: Mapping[str, Body] = {
        "GridSample": lambda b, x: b.op.GridSample(x, b.constant(grid)),
        "Einsum": lambda b, x: b.op.Einsum(x, equation="nchw->nhwc"),
        "Flatten": lambda b, x: b.op.Flatten(x),
        "Transpose of cells": lambda b, x: b.op.Reshape(b.op.Reshape(x, ints(b, -1, 96, 20)), ints(b, -1, 4, 24, 20)),
        "Concat of rows": lambda b, x: b.op.Concat(x, x, axis=2),
    }
    field = fields(graph(bodies[operator])).get("logits")
    assert field is None or field.receptive is None
    shown = {"GridSample": (4.0, 4.0), "Concat of rows": (0.5, 1.0)}
    if operator in shown:
        assert field is not None
        assert field.stride == shown[operator]


def test_every_step_is_proven() -> None:
    """A step without a body that holds it is a mistake, and no operator is both a step and elementwise."""
    bodies = {**FINITE, **{name: body for name, (body, _) in INFINITE.items()}}
    proven = {node.op_type for body in bodies.values() for node in graph(body).nodes}
    # ArgMax moves by leaps, Flatten is a Reshape, RMSNormalization is younger than this opset
    assert set(STEPS) - proven == {"ArgMax", "ArgMin", "Flatten", "RMSNormalization"}
    assert not ELEMENTWISE & set(STEPS)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.data())
def test_a_plain_network_has_exactly_the_field_of_its_gradients(data: st.DataObject) -> None:
    """Convolutions and poolings of any shape, one behind the other: the gradient is where the field is."""

    def body(b: Builder, x: str) -> str:
        for _ in range(data.draw(st.integers(1, 4))):
            size, stride, dilation = (data.draw(st.integers(1, n)) for n in (4, 2, 2))
            reach = dilation * (size - 1)
            pads = [data.draw(st.integers(0, min(2, reach // 2)))] * 4
            how = {"strides": [stride] * 2, "pads": pads, "kernel_shape": [size] * 2}
            if dilation == 1 and data.draw(st.booleans()):
                x = b.op.AveragePool(x, **how)
            else:
                x = conv_of(b, x, 1, size, dilations=[dilation] * 2, **how)
        return x

    check(graph(body, 1, (120, 112)), sloped)


# factory, size and layers
REAL: Mapping[str, tuple[Callable[[], nn.Module], int, tuple[str, ...]]] = {
    "alexnet": (alexnet, 255, ("body.2", "body.5", "body.12")),
    "convnext": (convnext_tiny, 64, ("features.1", "features.3")),
    "densenet": (lambda: zoo("densenet121"), 64, ("features.denseblock1", "features.denseblock2")),
    "googlenet": (lambda: zoo("googlenet", aux_logits=False, init_weights=False), 96, ("maxpool2", "inception4a")),
    "inception_v3": (
        lambda: zoo("inception_v3", aux_logits=False, init_weights=False),
        91,  # no column is left over at the end
        ("maxpool1", "Mixed_5d", "Mixed_6e"),
    ),
    "mobilenet_v2": (lambda: zoo("mobilenet_v2"), 96, ("features.3", "features.6", "features.18")),
    "pyramid": (Pyramid, 96, ("stage3", "merge")),
    "resnet18": (lambda: zoo("resnet18"), 128, ("layer1", "layer2", "layer3")),
    "shufflenet": (lambda: zoo("shufflenet_v2_x0_5"), 96, ("stage2", "stage3")),
    "squeezenet": (lambda: zoo("squeezenet1_1"), 127, ("features.3", "features.8", "features.12")),
    "vgg11_bn": (lambda: Headed(zoo("vgg11_bn").features), 128, ("body.7", "body.14", "body.28")),
}
QUICK = {"pyramid", "squeezenet"}
PHASES = {"merge"}  # behind an interpolation cells differ in what they see; the field is the union


def unbent(network: nn.Module) -> nn.Module:
    """The same windows and paths, all weights positive, and nothing that stops a gradient."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, module in list(network.named_modules()):
            parent, _, own = name.rpartition(".")
            if isinstance(module, nn.ReLU6):
                setattr(network.get_submodule(parent), own, nn.Identity())
            if isinstance(module, nn.MaxPool2d):
                same = nn.AvgPool2d(module.kernel_size, module.stride, module.padding, module.ceil_mode)
                setattr(network.get_submodule(parent), own, same)
        for parameter in network.parameters():
            parameter.abs_()
    return network.eval()


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n in QUICK else [pytest.mark.prove]) for n in REAL])
def test_a_real_network_has_its_gradients_in_its_fields(name: str) -> None:
    """In corners and in the middle, autograd's pixels are those of the field, cut at the edges of the picture."""
    make, size, layers = REAL[name]
    network = unbent(make())
    found = fields(Graph(trace(network, Preprocessing(height=size, width=size), layers)))
    for layer in layers:
        a = found[layer].x
        for cell, first, end in columns(network, layer, size):
            low, high = round(a.low + cell * a.stride), round(a.high + cell * a.stride)
            assert max(low, 0) <= first
            assert end <= min(high, size)
            if layer not in PHASES:
                assert (first, end) == (max(low, 0), min(high, size))


def columns(network: nn.Module, layer: str, size: int) -> list[tuple[int, int, int]]:
    """Some cells in the middle row of a layer, each with the first and the last column that moves it, and one more."""
    taps: list[Tensor] = []
    hook = network.get_submodule(layer).register_forward_hook(lambda _m, _i, y: taps.append(y))
    x = torch.rand(1, 3, size, size, dtype=torch.float64, requires_grad=True)
    network.double()(x)
    hook.remove()
    cells = taps[0].shape[-1]
    answer = []
    for cell in sorted({0, 1, cells // 2, cells - 1}):
        (g,) = torch.autograd.grad(taps[0][0, :, cells // 2, cell].sum(), x, retain_graph=True)
        seen = g.abs().sum((0, 1, 2)).nonzero().flatten()
        answer.append((cell, int(seen[0]), int(seen[-1]) + 1))
    return answer
