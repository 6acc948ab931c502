"""A torch network as the trunk's ONNX model: uint8 pixels go in, logits and tapped layers come out.

The module `Trunk` is what a bundle's `trunk.onnx` computes; `trace` turns it into ONNX, and verification runs the same
module in PyTorch. This module knows neither where the pixels come from nor what the logits mean.
"""

import copy
import warnings
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr
from io import StringIO
from types import MappingProxyType
from typing import Any

import onnx
import onnx_ir as ir
import torch
from torch import Tensor, nn

from percept.bundle.manifest import IMAGE, OutputHead
from percept.bundle.preprocessing import Preprocessing
from percept.errors import BundleError
from percept_models.autodiff.tail import ACTIVATIONS, GRADIENTS, LOGITS, SEED
from percept_models.graph.builder import OPSET
from percept_models.graph.layout import Layout
from percept_models.graph.simplification import simplify
from percept_models.graph.stages import Nesting
from percept_models.sources.outputs import Output, select_output
from percept_models.sources.tap import tap_hook
from percept_models.sources.tracing_modes import ActivationInputs, Exportable, OutOfPlace, before_activations

PIXELS = "pixels"
RESERVED = frozenset({"", PIXELS, LOGITS, IMAGE, ACTIVATIONS, SEED, GRADIENTS})
CONTAINERS = (nn.Sequential.forward, nn.Module.forward)  # their modules are as deep as they are
PARAMETER_PREFIX = "network."  # of every initializer that is a parameter of the network


class Trunk(nn.Module):
    """pixels uint8 [N,H,W,C] → logits, and the outputs [N,C,h,w] of the named modules, in order.

    The layer `IMAGE` is not a module: it is the network's normalized input. Without the shape of the `logits` [K] or
    [K,h,w] the network's own output stands in their place, of which `head` names one where there are several; with it
    they are what `head` describes. `layouts` says how the maps lie in the outputs of modules that are not [N,C,h,w].
    """

    def __init__(
        self,
        network: nn.Module,
        preprocessing: Preprocessing,
        layers: Sequence[str],
        head: OutputHead | None = None,
        logits: Sequence[int] = (),
        layouts: Mapping[str, Layout] = MappingProxyType({}),
    ) -> None:
        super().__init__()
        self.layouts = layouts
        self.head, self.logits = head or OutputHead(), tuple(logits)
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
            self.network.get_submodule(name).register_forward_hook(tap_hook(taps, name, self.layouts.get(name)))
            for name in self.layers
            if name != IMAGE
        ]
        with ActivationInputs() if self.head.removed and self.logits else OutOfPlace():
            output = select_output(self.network(image), self.head.output, image).tensor
            logits = output_as_logits(output, self.head, self.logits, len(image)) if self.logits else output
        for hook in hooks:
            hook.remove()
        if missing := set(self.layers) - set(taps):
            raise ValueError(f"the network does not use its modules {sorted(missing)}")
        return (logits, *(taps[name] for name in self.layers))

    def normalized(self, pixels: Tensor) -> Tensor:
        """The network's input, float32 [N,C,H,W], contiguous because networks may call `view` on it."""
        x = pixels.flip(-1) if self.flipped else pixels
        planes = ((x.float() - self.mean) / self.std).permute(0, 3, 1, 2)
        # Not `contiguous()`: it leaves the strides of one channel as they are, which stand for channels last too.
        return planes.clone(memory_format=torch.contiguous_format)


def output_as_logits(output: Tensor, head: OutputHead, shape: Sequence[int], n: int) -> Tensor:
    """The logits [n,*shape] that a bundle has in the place of a network's output for n images; see `OutputHead`.

    Raises `BundleError` where the output is not what `head` describes.
    """
    y = arrange_output(before_activations(output, head.removed), head, shape, n)
    if y.shape[1] == 1 < shape[0]:
        y = torch.cat([1 - y if head.added == "complement" else torch.zeros_like(y), y], 1)
    if y.shape[1:] != tuple(shape):
        raise BundleError(f"the network's output {list(output.shape)} does not give logits {list(shape)}")
    return y


def arrange_output(output: Tensor, head: OutputHead, shape: Sequence[int], n: int) -> Tensor:
    """A network's output for n images as [n,K] or [n,K,h,w], where the logits have the shape [K] or [K,h,w].

    The batch is n, not the first axis of the output, which a network that squeezes its output loses with one image.
    """
    y = output.movedim(-1, 1) if head.classes_last and output.dim() == 4 else output
    return y.reshape(n, -1, *shape[1:])


def run_network(network: nn.Module, preprocessing: Preprocessing, pixels: Tensor, output: str | None = None) -> Output:
    """What the untouched network itself returns for images uint8 [N,H,W,C], on the CPU in `eval` mode.

    `output` is the name of one of several outputs. Raises `BundleError` as `select_output` does.
    """
    trunk = Trunk(network.cpu(), preprocessing, ())
    with torch.no_grad():
        image = trunk.normalized(pixels)
        return select_output(copy.deepcopy(network).eval()(image), output, image)


def find_feature_maps(
    network: nn.Module, preprocessing: Preprocessing, output: str | None = None
) -> dict[str, Nesting]:
    """The modules whose output may be a feature map, a tensor of three or four axes, → their nesting.

    If several modules return the same tensor, only the outermost counts, and one that returns its own input, as
    `nn.Identity` and dropout do, does not. Modules whose names the trunk or a tail
    reserves are left out. The order is that of computation.
    """
    trunk = Trunk(network.cpu(), preprocessing, (), OutputHead(output=output))
    pixels = example_pixels(preprocessing)
    names = {module: name for name, module in trunk.network.named_modules()}
    outputs: dict[str, Tensor] = {}

    def record(module: nn.Module, inputs: Any, output: Any) -> None:
        outputs.pop(names[module], None)
        returns_input = any(output is value for value in inputs)
        if isinstance(output, Tensor) and not returns_input and _may_be_feature_map(output, len(pixels)):
            outputs[names[module]] = output

    for module in trunk.network.modules():
        module.register_forward_hook(record)
    with torch.no_grad():
        logits = trunk(pixels)[0]
    outermost: dict[int, str] = {}
    for name, tensor in outputs.items():
        known = outermost.get(id(tensor))
        usable = name not in RESERVED and name.isprintable() and tensor is not logits
        if usable and (known is None or name.count(".") < known.count(".")):
            outermost[id(tensor)] = name
    return {name: _nesting(trunk.network, name) for name in outermost.values()}


def _may_be_feature_map(tensor: Tensor, batch: int) -> bool:
    """Whether a tensor has the axes of a map of several cells: [N,C,h,w], [N,h,w,C], [N,T,C] or [N,C,T]."""
    return tensor.dim() in (3, 4) and len(tensor) == batch and sum(size > 1 for size in tensor.shape[1:]) > 1


def _nesting(network: nn.Module, name: str) -> Nesting:
    """How deep a module lies in a network; `nn.Sequential` and lists of modules are containers."""
    path = name.split(".")[:-1]
    parents = [network.get_submodule(".".join(path[: i + 1])) for i in range(len(path))]
    return Nesting(sum(type(parent).forward not in CONTAINERS for parent in parents), len(parents))


def example_pixels(preprocessing: Preprocessing) -> Tensor:
    """Two images of noise of a network's size, uint8 [2,H,W,C]."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (2, *preprocessing.shape), dtype=torch.uint8, generator=generator)


def trace(
    network: nn.Module, preprocessing: Preprocessing, layers: Sequence[str], output: str | None = None
) -> onnx.ModelProto:
    """The trunk as an ONNX model with a symbolic batch N; its `logits` are the network's own output, of this name.

    Every initializer is named `PARAMETER_PREFIX` and the name of its torch parameter; none is merged with another or
    left out, because `export.weights.read_parameters` reads them back. The model holds no path of the machine that made
    it. Raises `ValueError` where a layer is not a module of its own that is used and returns a feature map.
    """
    trunk = Trunk(network.cpu(), preprocessing, layers, OutputHead(output=output)).eval()
    pixels = example_pixels(preprocessing)
    _check_layers(trunk, pixels, network, preprocessing)
    batch = {PIXELS: {0: torch.export.Dim("N")}}
    with warnings.catch_warnings(), torch.no_grad():
        # torch 2.13's exporter copies its own deprecated LeafSpec
        warnings.filterwarnings("ignore", r".*LeafSpec.*is deprecated", FutureWarning)
        with Exportable(), redirect_stderr(StringIO()):  # torch prints the graph if its export fails
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


def _check_layers(trunk: Trunk, pixels: Tensor, network: nn.Module, preprocessing: Preprocessing) -> None:
    """Raise `ValueError` where a layer is not a module of its own that returns a feature map.

    Also where the network does not compute the same with its in-place operations run out of place.
    """
    known = dict(trunk.network.named_modules(remove_duplicate=False))
    if unknown := set(trunk.layers) - {IMAGE} - set(known):
        raise ValueError(f"the network has no module {sorted(unknown)}")
    with torch.no_grad():
        logits, *taps = trunk(pixels)
    expected = run_network(network, preprocessing, pixels, trunk.head.output).tensor.float()
    if not expected.isfinite().all():
        raise ValueError(
            "the network's logits are NaN or infinite for images of noise: check its weights, and --mean and --std"
        )
    if not torch.allclose(logits.float(), expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max())):
        raise ValueError("the network relies on in-place operations whose result it ignores: let it use the result")
    if len(logits) != len(pixels):
        raise ValueError(
            f"the network returns {len(logits)} rows for {len(pixels)} images: it is for images of another --size, or "
            "mixes them"
        )
    for name, tap in zip(trunk.layers, taps, strict=True):
        if not isinstance(tap, Tensor) or tap.dim() not in (3, 4):
            raise ValueError(f"the layer {name!r} gives no feature map [N,C,h,w]")
        same = [other for other, t in zip(trunk.layers, taps, strict=True) if t is tap]
        if len(same) > 1:
            raise ValueError(f"the layers {same} are one and the same tensor: name one of them")
