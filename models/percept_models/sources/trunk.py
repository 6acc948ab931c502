"""A torch network as the trunk's ONNX model: uint8 pixels go in, logits and tapped layers come out.

The module `Trunk` is what a bundle's `trunk.onnx` computes; `trace` turns it into ONNX, and verification runs the same
module in PyTorch. This module knows neither where the pixels come from nor what the logits mean.
"""

import copy
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import onnx
import onnx_ir as ir
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from percept.bundle.manifest import IMAGE, Preprocessing
from percept_models.autodiff.tail import ACTIVATIONS, GRADIENTS, LOGITS, SEED
from percept_models.graph.builder import OPSET
from percept_models.graph.simplification import simplify
from percept_models.sources.tracing_modes import AdaptivePooling, OutOfPlace

PIXELS = "pixels"
RESERVED = frozenset({"", PIXELS, LOGITS, IMAGE, ACTIVATIONS, SEED, GRADIENTS})
PREFIX = "network."  # of every initializer that is a parameter of the network


class Trunk(nn.Module):
    """pixels uint8 [N,H,W,3] RGB → logits, and the outputs [N,C,h,w] of the named modules, in order.

    The layer `IMAGE` is not a module: it is the network's normalized input.
    """

    def __init__(self, network: nn.Module, preprocessing: Preprocessing, layers: Sequence[str]) -> None:
        super().__init__()
        self.network = copy.deepcopy(network).eval()
        self.layers = tuple(layers)
        self.flipped: bool = preprocessing.channels == "BGR"
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(preprocessing.mean))
        self.register_buffer("std", torch.tensor(preprocessing.std))
        for module in self.network.modules():
            if hasattr(module, "inplace"):
                module.inplace = False  # type: ignore[assignment]  # it would overwrite a tapped layer

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """Normalize, run the network, and return the logits followed by the tapped layers."""
        image = self.normalized(pixels)
        if IMAGE in self.layers and torch.is_grad_enabled():
            image.requires_grad_()
        taps = {IMAGE: image}
        hooks = [
            self.network.get_submodule(name).register_forward_hook(
                lambda _module, _inputs, output, name=name: taps.__setitem__(name, output)
            )
            for name in self.layers
            if name != IMAGE
        ]
        with OutOfPlace():
            logits = extract_logits(self.network(image))
        for hook in hooks:
            hook.remove()
        if missing := set(self.layers) - set(taps):
            raise ValueError(f"the network does not use its modules {sorted(missing)}")
        return (logits, *(taps[name] for name in self.layers))

    def normalized(self, pixels: Tensor) -> Tensor:
        """The network's input, float32 [N,3,H,W]."""
        x = pixels.flip(-1) if self.flipped else pixels
        return ((x.float() - self.mean) / self.std).permute(0, 3, 1, 2)


def extract_logits(output: Any) -> Tensor:
    """The logits in the output of a network; a mask of one channel gets a background class whose logit is 0.

    A network returns a tensor, a dictionary with the key `out` or `logits` (torchvision's segmenters, transformers), or
    a tuple of the logits and what only training needs. Raises `ValueError` for anything else.
    """
    if isinstance(output, Mapping):
        output = next((output[name] for name in ("out", "logits") if name in output), None)
    if isinstance(output, (tuple, list)) and output:
        output = output[0]
    if not isinstance(output, Tensor):
        raise ValueError(f"the network returns {type(output).__name__}, not a tensor of logits")
    if output.dim() == 4 and output.shape[1] == 1:
        return F.pad(output, (0, 0, 0, 0, 1, 0))  # sigmoid(y) is the softmax of (0, y)
    return output


def find_feature_maps(network: nn.Module, preprocessing: Preprocessing) -> dict[str, int]:
    """The modules whose output is a feature map [N,C,h,w] of several cells → their nesting depth.

    If several modules return the same tensor, only the outermost counts. Modules whose names the trunk or a tail
    reserves are left out. The order is that of computation.
    """
    trunk = Trunk(network.cpu(), preprocessing, ())
    names = {module: name for name, module in trunk.network.named_modules()}
    outputs: dict[str, Tensor] = {}

    def record(module: nn.Module, _inputs: Any, output: Any) -> None:
        outputs.pop(names[module], None)
        if isinstance(output, Tensor) and output.dim() == 4 and output.shape[-2:].numel() > 1:
            outputs[names[module]] = output

    for module in trunk.network.modules():
        module.register_forward_hook(record)
    with torch.no_grad():
        logits = trunk(example_pixels(preprocessing))[0]
    outermost: dict[int, tuple[str, int]] = {}
    for name, tensor in outputs.items():
        depth = name.count(".")
        if name not in RESERVED and tensor is not logits and depth < outermost.get(id(tensor), ("", depth + 1))[1]:
            outermost[id(tensor)] = name, depth
    return dict(outermost.values())


def example_pixels(preprocessing: Preprocessing) -> Tensor:
    """Two images of noise of a network's size, uint8 [2,H,W,3]."""
    generator = torch.Generator().manual_seed(0)
    size = (2, preprocessing.height, preprocessing.width, 3)
    return torch.randint(0, 256, size, dtype=torch.uint8, generator=generator)


def trace(network: nn.Module, preprocessing: Preprocessing, layers: Sequence[str]) -> onnx.ModelProto:
    """The trunk as an ONNX model with a symbolic batch N.

    Every initializer is named `PREFIX` and the name of its torch parameter; none is merged with another or left out,
    because `export.weights.read_parameters` reads them back. The model holds no path of the machine that made it.
    Raises `ValueError` where a layer is not a module of its own that is used and returns a feature map.
    """
    trunk = Trunk(network.cpu(), preprocessing, layers).eval()
    pixels = example_pixels(preprocessing)
    _check_layers(trunk, pixels, network)
    batch = {PIXELS: {0: torch.export.Dim("N")}}
    with warnings.catch_warnings(), torch.no_grad():
        # torch 2.13's exporter copies its own deprecated LeafSpec
        warnings.filterwarnings("ignore", r".*LeafSpec.*is deprecated", FutureWarning)
        with AdaptivePooling():
            exported = torch.export.export(trunk, (pixels,), dynamic_shapes=batch)
        program = torch.onnx.export(
            exported,
            dynamo=True,
            optimize=False,
            opset_version=OPSET,
            input_names=[PIXELS],
            output_names=[LOGITS, *layers],
            dynamic_shapes=batch,
            verbose=False,
        )
    assert program is not None
    simplify(program.model)
    return ir.to_proto(program.model)


def _check_layers(trunk: Trunk, pixels: Tensor, network: nn.Module) -> None:
    """Raise `ValueError` where a layer is not a module of its own that returns a feature map.

    Also where the network does not compute the same with its in-place operations run out of place.
    """
    known = dict(trunk.network.named_modules(remove_duplicate=False))
    if unknown := set(trunk.layers) - {IMAGE} - set(known):
        raise ValueError(f"the network has no module {sorted(unknown)}")
    with torch.no_grad():
        logits, *taps = trunk(pixels)
        expected = extract_logits(copy.deepcopy(network).eval()(trunk.normalized(pixels)))
    if not torch.allclose(logits, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max())):
        raise ValueError("the network relies on in-place operations whose result it ignores: let it use the result")
    for name, tap in zip(trunk.layers, taps, strict=True):
        if not isinstance(tap, Tensor) or tap.dim() != 4:
            raise ValueError(f"the layer {name!r} gives no feature map [N,C,h,w]")
        same = [other for other, t in zip(trunk.layers, taps, strict=True) if t is tap]
        if len(same) > 1:
            raise ValueError(f"the layers {same} are one and the same tensor")
