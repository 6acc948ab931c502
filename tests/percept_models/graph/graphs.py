"""Graphs of layers in unusual layouts, as other frameworks and transformers have them, built without tracing."""

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper

from percept_models.graph.builder import OPSET, Builder
from percept_models.graph.reader import Graph

SIZE = (16, 24)  # height and width of the image
GRID = (4, 6)  # of its patches of 4 x 4


class Network:
    """A network under construction: every method adds nodes after a tensor and returns the name of the result."""

    def __init__(self, seed: int = 0) -> None:
        self.builder = Builder(["pixels", "logits"])
        self.op = self.builder.op
        self._random = np.random.default_rng(seed)

    def weights(self, *shape: int) -> str:
        """A stored tensor of random numbers."""
        scale = 1 / np.sqrt(shape[0] if len(shape) < 4 else np.prod(shape[1:]))
        return self.builder.constant((self._random.standard_normal(shape) * scale).astype(np.float32))

    def ints(self, *values: int) -> str:
        """A stored vector of integers."""
        return self.builder.constant(np.array(values, np.int64))

    def image(self) -> str:
        """The pixels as float32 [N,3,H,W]."""
        x = self.op.Cast("pixels", to=TensorProto.FLOAT)
        return self.op.Transpose(
            self.op.Mul(x, self.builder.constant(np.array(1 / 255, np.float32))), perm=[0, 3, 1, 2]
        )

    def conv(self, x: str, inputs: int, outputs: int, size: int = 3, stride: int = 1) -> str:
        """A convolution with a ReLU; without a stride it keeps the size."""
        pad = [size // 2] * 4 if size % 2 else [0] * 4
        return self.op.Relu(self.op.Conv(x, self.weights(outputs, inputs, size, size), pads=pad, strides=[stride] * 2))

    def reshape(self, x: str, *sizes: int) -> str:
        """A reshape; 0 keeps a size."""
        return self.op.Reshape(x, self.ints(*sizes))

    def linear(self, x: str, inputs: int, outputs: int) -> str:
        """A product of the last axis with a matrix."""
        return self.op.MatMul(x, self.weights(inputs, outputs))

    def norm(self, x: str, channels: int) -> str:
        """A layer normalization of the last axis."""
        return self.op.LayerNormalization(x, self.builder.constant(np.ones(channels, np.float32)))

    def attention(self, x: str, channels: int) -> str:
        """Self-attention of tokens [N,T,C] with one head."""
        q, k, v = (self.linear(x, channels, channels) for _ in "qkv")
        weights = self.op.Softmax(self.op.MatMul(q, self.op.Transpose(k, perm=[0, 2, 1])))
        return self.linear(self.op.MatMul(weights, v), channels, channels)

    def block(self, x: str, channels: int) -> tuple[str, str]:
        """A block of a transformer: its output, and the normalized input of its attention."""
        normalized = self.norm(x, channels)
        x = self.op.Add(x, self.attention(normalized, channels))
        hidden = self.op.Relu(self.linear(self.norm(x, channels), channels, 2 * channels))
        return self.op.Add(x, self.linear(hidden, 2 * channels, channels)), normalized

    def patches(self, channels: int) -> str:
        """The tokens [N,T,C] of patches of 4 x 4 pixels."""
        x = self.op.Conv(self.image(), self.weights(channels, 3, 4, 4), strides=[4, 4])
        return self.op.Transpose(self.reshape(x, 0, channels, -1), perm=[0, 2, 1])

    def with_class_token(self, tokens: str, channels: int) -> str:
        """The tokens after one that is the same for every image."""
        batch = self.op.Slice(self.op.Shape(tokens), self.ints(0), self.ints(1))
        shape = self.op.Concat(batch, self.ints(1, channels), axis=0)
        return self.op.Concat(self.op.Expand(self.weights(1, 1, channels), shape), tokens, axis=1)

    def mean(self, x: str, *axes: int) -> str:
        """The mean over axes."""
        return self.op.ReduceMean(x, self.ints(*axes), keepdims=0)

    def finish(self, features: str, channels: int, classes: int = 5) -> Graph:
        """The graph, whose logits are a linear function of features [N,C]."""
        self.builder.nodes.append(helper.make_node("MatMul", [features, self.weights(channels, classes)], ["logits"]))
        return Graph(build_model(self.builder.nodes, list(self.builder.constants.values()), classes))


def build_model(nodes: Sequence[NodeProto], constants: Sequence[TensorProto], classes: int) -> onnx.ModelProto:
    """A model of `pixels` [N,H,W,3] → `logits` [N,K]."""
    pixels = helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["N", *SIZE, 3])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", classes])
    graph = helper.make_graph(nodes, "network", [pixels], [logits], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9)


def vision_transformer(
    depth: int = 4, class_token: bool = True, channels: int = 8
) -> tuple[Graph, list[str], list[str]]:
    """A transformer: its graph, the outputs of its blocks, and the normalized inputs of their attentions.

    With a class token the logits read that token, else the mean of all tokens.
    """
    network = Network()
    x = network.patches(channels)
    x = network.with_class_token(x, channels) if class_token else x
    outputs, normalized = [], []
    for _ in range(depth):
        x, norm1 = network.block(x, channels)
        outputs.append(x)
        normalized.append(norm1)
    x = network.norm(x, channels)
    normalized.append(x)
    features = (
        network.op.Gather(x, network.builder.constant(np.array(0)), axis=1) if class_token else network.mean(x, 1)
    )
    return network.finish(features, channels), outputs, normalized


def keras_network() -> tuple[Graph, str, str]:
    """Two convolutions between transposes, as an exporter of Keras writes them, and the flattened map [N,h,w,C].

    Returns the graph, the map [N,C,h,w] and its copy in [N,h,w,C].
    """
    network = Network()
    x = network.conv(network.conv(network.image(), 3, 4, stride=2), 4, 6, stride=2)
    last = network.op.Transpose(x, perm=[0, 2, 3, 1])
    cells = GRID[0] * GRID[1] * 6
    return network.finish(network.reshape(last, 0, cells), cells), x, last


def channels_last_network() -> tuple[Graph, str]:
    """A convolution, and in [N,h,w,C] a sum of it and a layer of weights: only there is the last map."""
    network = Network()
    x = network.op.Transpose(network.conv(network.image(), 3, 8, size=4, stride=4), perm=[0, 2, 3, 1])
    x = network.op.Add(x, network.linear(network.norm(x, 8), 8, 8))
    return network.finish(network.mean(x, 1, 2), 8), x
