"""Images found by gradients: those that excite a channel most, and those that a layer cannot tell from a photo.

Both move the free numbers of a `Canvas` by Adam. What the network thinks of its pixels, and which way they should
change, is computed by ONNX Runtime in the trunk and in its derivative, from the image to the layer, compiled by
`autodiff`. Pixels are RGB in 0..255 on this side of the normalisation, whatever the network's mean, std and order.
"""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from torch import Tensor, nn
from torch.optim import Adam
from torch.optim.lr_scheduler import CosineAnnealingLR

from percept.bundle.manifest import IMAGE, Layer, Preprocessing
from percept.runtime.session import Session, resolve
from percept_models.autodiff.reverse import ACTIVATIONS, GRADIENTS, LOGITS, SEED, needed, tail
from percept_models.graph.reader import Array, Graph
from percept_models.sources.trunk import PIXELS
from percept_models.visualize.canvas import NATURAL, STRONG, Canvas, moved, roughness

RATE = 0.1
SMOOTH = 20.0  # the weight of total variation beside the logarithm of an inversion's error
DREAMS = 32  # pictures of noise with which a channel's maximum is compared
LEAK = 0.1  # the slope of a leaky ReLU below zero
ANSWER, BEYOND, LEAKY, TARGET, USUAL = "d.answer", "d.beyond", "d.leaky", "d.target", "d.usual"

Ask = Callable[[Array], tuple[Array, Array]]  # image [n,3,H,W] → loss [n] and its gradient


class Response:
    """A layer as a function of pictures of one size, with its derivative."""

    def __init__(self, trunk: ModelProto, layer: Layer, how: Preprocessing, size: tuple[int, int]) -> None:
        """Compile it for pictures of `size` (H, W).

        Raises `UnsupportedOperator` where an operator has no rule, and `BundleError` or `ValueError` where the network
        does not take that size.
        """
        self.layer, self.how, self.size = layer.name, how, size
        model = resized(trunk, layer.name, size)
        graph = Graph(model)
        self._model, self._graph, self._activation = model, graph, activation(graph, layer.name)
        self._tensor = self._activation[0].input[0] if self._activation else layer.name
        self.shape = tuple(size or 0 for size in graph.shapes.get(self._tensor, ())[1:])
        if len(self.shape) != 3 or 0 in self.shape:
            raise ValueError(f"the shape of {layer.name!r} is not known for pictures of {size[0]} x {size[1]}")
        if self._activation:
            model.graph.output.append(helper.make_tensor_value_info(self._tensor, TensorProto.FLOAT, None))
        self._forward = _session(model)
        self._tail, crossing = tail(graph, IMAGE, logits=self._tensor)
        if crossing:
            raise ValueError(f"what reaches {layer.name!r} bypasses the image")

    def activations(self, pixels: Array) -> Array:
        """The layer's own activations [n,C,h,w] for pixels uint8 [n,H,W,3]."""
        return np.concatenate(self._run(self.layer, pixels))

    def means(self, pixels: Array) -> Array:
        """By picture and channel the mean [n,C] of what `excitement` makes larger."""
        x = self.normalised(torch.from_numpy(pixels).permute(0, 3, 1, 2).float()).numpy()
        seed = np.zeros((1, *self.shape), np.float32)
        rows = [self._slope.run({ACTIVATIONS: row[None], SEED: seed}, [LOGITS])[LOGITS] for row in x]
        return np.asarray(np.concatenate(rows).mean((2, 3)))

    def normalised(self, pixels: Tensor) -> Tensor:
        """What the network takes for pixels [n,3,H,W] RGB."""
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in (self.how.mean, self.how.std))
        return ((pixels.flip(1) if self.how.channels == "BGR" else pixels) - mean) / std

    def excitement(self, channels: Sequence[int]) -> Ask:
        """Of picture i, minus the mean of channel `channels[i]` behind a leaky ReLU in the place of its own.

        That one is never asleep and never full, and bends where the channel is on noise. The mean of a filter's bare
        answers would add up to what is at the edges of the picture, and forget what is inside.
        """
        seed = np.zeros((len(channels), *self.shape), np.float32)
        seed[range(len(channels)), channels] = -1 / np.prod(self.shape[1:])

        def ask(x: Array) -> tuple[Array, Array]:
            found = self._slope.run({ACTIVATIONS: x, SEED: seed}, [LOGITS, GRADIENTS])
            return (found[LOGITS] * seed).sum((1, 2, 3)), found[GRADIENTS]

        return ask

    def distance(self, A: Array) -> Ask:
        """From activations [n,C,h,w]: ‖A(x) - A‖² / ‖A‖² of each picture.

        Through a ReLU at the end the gradient passes as it is: it is that of the matching loss (Auer et al. 1995),
        which has the same least value, and a slope where cells that should be active are not.
        """
        session = _session(self._towards())
        scale = 1 / np.maximum(np.square(A).sum((1, 2, 3), keepdims=True), 1e-12)

        def ask(x: Array) -> tuple[Array, Array]:
            found = session.run({ACTIVATIONS: x, TARGET: A}, [ANSWER, GRADIENTS])
            return (scale * np.square(found[ANSWER] - A)).sum((1, 2, 3)), 2 * scale * found[GRADIENTS]

        return ask

    def _run(self, tensor: str, pixels: Array) -> list[Array]:
        """What the trunk gives, picture by picture: large maps of many would take memory."""
        return [self._forward.run({PIXELS: row[None]}, [tensor])[tensor] for row in pixels]

    @cached_property
    def _slope(self) -> Session:
        """The derivative of what a leaky ReLU gives that bends at the channels' usual values."""
        usual = np.concatenate(self._run(self._tensor, noise(self.size))).mean((0, 2, 3))
        return _session(tail(_leaking(self._model, self._tensor, usual), IMAGE, logits=LEAKY)[0])

    def _towards(self) -> ModelProto:
        """The derivative whose seed is not given but computed: the layer's `ANSWER` minus a `TARGET`."""
        model = ModelProto()
        model.CopyFrom(self._tail)
        graph, name, made = model.graph, LOGITS, []
        for node in self._activation:
            made.append(NodeProto())
            made[-1].CopyFrom(node)
            made[-1].input[0], name = name, node.output[0]
            known = {tensor.name for tensor in graph.initializer} | {""}
            graph.initializer.extend(_named(self._graph, bound) for bound in {*node.input[1:]} - known)
        made += [helper.make_node("Identity", [name], [ANSWER]), helper.make_node("Sub", [ANSWER, TARGET], [SEED])]
        place = 1 + next(i for i, node in enumerate(graph.node) if LOGITS in node.output)
        for node in reversed(made):
            graph.node.insert(place, node)
        next(value for value in graph.input if value.name == SEED).name = TARGET
        next(value for value in graph.output if value.name == LOGITS).name = ANSWER
        return model


class Through(torch.autograd.Function):
    """The loss [n] of an image [n,3,H,W] by an `Ask`: torch's gradients run through ONNX Runtime."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, ask: Ask) -> Tensor:
        """Ask once: the gradient comes with the loss."""
        loss, gradient = ask(x.detach().numpy())
        ctx.save_for_backward(torch.from_numpy(gradient))
        return torch.from_numpy(loss)

    @staticmethod
    def backward(ctx: Any, given: Tensor) -> tuple[Tensor, None]:
        """The gradient, weighted picture by picture."""
        (gradient,) = ctx.saved_tensors
        return given.view(-1, 1, 1, 1) * gradient, None


def maximise(response: Response, channels: Sequence[int], steps: int, seed: int = 0) -> Array:
    """For each channel the picture that excites it most on the average over its cells, uint8 [n,H,W,3].

    Activation maximisation (Erhan et al. 2009) of pictures that are moved a little at each step (Olah et al. 2017). It
    begins with the picture of noise that excites the channel most: on a grey one a ReLU may have no slope.
    """
    shaking, ask = torch.Generator().manual_seed(seed), response.excitement(channels)
    canvas = Canvas(DREAMS, response.size, seed, NATURAL, STRONG)
    best = response.means(_pixels(canvas))[:, channels].argmax(0)
    canvas.z = nn.Parameter(canvas.z.detach()[best])

    def loss(x: Tensor) -> Tensor:
        return Through.apply(response.normalised(moved(x, shaking)), ask)  # type: ignore[no-any-return,no-untyped-call]

    return _descend(canvas, loss, steps)


def invert(response: Response, photo: Array, steps: int, seed: int = 0) -> tuple[Array, float]:
    """A picture uint8 [H,W,3] with the activations A of a photo like it, and its ‖A(x) - A‖² / ‖A‖².

    Feature inversion (Mahendran and Vedaldi 2015, arXiv:1412.0035), the prior being the canvas and total variation. It
    is the logarithm of the error that falls: so the prior counts as much as the layer leaves open.
    """
    A = response.activations(photo[None])
    ask = response.distance(A)

    def loss(x: Tensor) -> Tensor:
        error: Tensor = Through.apply(response.normalised(x), ask)  # type: ignore[no-untyped-call]
        return error.clamp(min=1e-8).log() + SMOOTH * roughness(x)

    found = _descend(Canvas(1, response.size, seed), loss, steps)
    off = np.square(response.activations(found) - A).sum() / max(float(np.square(A).sum()), 1e-12)
    return found[0], float(off)


def noise(size: tuple[int, int], seed: int = 1) -> Array:
    """Pictures uint8 [n,H,W,3] without content, with the spectrum and the colours of photos."""
    return _pixels(Canvas(DREAMS, size, seed, NATURAL))


def activation(graph: Graph, layer: str) -> list[NodeProto]:
    """The nodes of the ReLU at the end of a layer, bounded or not, in order; none where it ends otherwise."""
    maker = graph.producer[layer]
    if maker.op_type not in ("Relu", "Clip") or not {*maker.input[1:]} <= {"", *graph.constants}:
        return []
    return [*activation(graph, maker.input[0]), maker]


def resized(trunk: ModelProto, layer: str, size: tuple[int, int]) -> ModelProto:
    """A copy of the trunk up to a layer, for pixels of another size."""
    model = ModelProto()
    model.CopyFrom(trunk)
    graph = model.graph
    nodes = list(needed(graph.node, {layer}))
    used = {name for node in nodes for name in node.input}
    weights = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.node[:], graph.initializer[:], graph.output[:], graph.value_info[:]
    graph.node.extend(nodes)
    graph.initializer.extend(weights)
    graph.input[0].type.tensor_type.shape.dim[1].dim_value = size[0]
    graph.input[0].type.tensor_type.shape.dim[2].dim_value = size[1]
    graph.output.append(helper.make_tensor_value_info(layer, TensorProto.FLOAT, None))
    return model


def _leaking(model: ModelProto, tensor: str, usual: Array) -> Graph:
    """A model with a leaky ReLU behind a tensor, which bends at the `usual` value [C] of each channel."""
    copy = ModelProto()
    copy.CopyFrom(model)
    copy.graph.initializer.append(numpy_helper.from_array(usual[:, None, None].astype(np.float32), USUAL))
    copy.graph.node.append(helper.make_node("Sub", [tensor, USUAL], [BEYOND]))
    copy.graph.node.append(helper.make_node("LeakyRelu", [BEYOND], [LEAKY], alpha=LEAK))
    return Graph(copy)


def _named(graph: Graph, name: str) -> TensorProto:
    """A constant of a graph under its name there."""
    tensor = TensorProto()
    tensor.CopyFrom(graph.constants[name])
    tensor.name = name
    return tensor


def _descend(canvas: Canvas, loss: Callable[[Tensor], Tensor], steps: int) -> Array:
    """Adam, with steps that fade: uint8 [n,H,W,3]."""
    adam = Adam(canvas.parameters(), lr=RATE, eps=1e-12)  # the mean of many cells has a small slope
    fading = CosineAnnealingLR(adam, steps)
    for _ in range(steps):
        adam.zero_grad()
        loss(canvas()).sum().backward()  # type: ignore[no-untyped-call]
        adam.step()
        fading.step()
    return _pixels(canvas)


def _pixels(canvas: Canvas) -> Array:
    with torch.no_grad():
        return np.ascontiguousarray(canvas().round().to(torch.uint8).permute(0, 2, 3, 1).numpy())


def _session(model: ModelProto) -> Session:
    return Session(model.SerializeToString(), resolve("auto"), torch.get_num_threads())
