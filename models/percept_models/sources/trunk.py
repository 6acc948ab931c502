"""A torch network as the trunk's ONNX model: uint8 pixels go in, logits and tapped layers come out.

What a bundle's `trunk.onnx` computes is written here once, as the module `Trunk`; `trace` turns it into ONNX,
and `verify` runs the same module in PyTorch. Where the pixels come from and what the logits mean is not known.
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
from percept_models.autodiff.reverse import ACTIVATIONS, GRADIENTS, SEED
from percept_models.graph.reader import OPSET
from percept_models.graph.simplify import simplify
from percept_models.sources.tracing_modes import AdaptivePooling, Apart

PIXELS, LOGITS = "pixels", "logits"
RESERVED = frozenset({"", PIXELS, LOGITS, IMAGE, ACTIVATIONS, SEED, GRADIENTS})
PREFIX = "network."  # of every initializer that is a parameter of the network


class Trunk(nn.Module):
    """pixels uint8 [N,H,W,3] RGB -> logits, and the outputs [N,C,h,w] of the named modules, in order.

    The layer called `IMAGE` is no module: it is what the network takes.
    """

    def __init__(self, network: nn.Module, how: Preprocessing, layers: Sequence[str]) -> None:
        super().__init__()
        self.network = copy.deepcopy(network).eval()
        self.layers = tuple(layers)
        self.flipped: bool = how.channels == "BGR"
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(how.mean))
        self.register_buffer("std", torch.tensor(how.std))
        for module in self.network.modules():
            if hasattr(module, "inplace"):
                module.inplace = False  # type: ignore[assignment]  # it would overwrite a tapped layer

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """Normalise, run the network, and return the logits followed by the taps."""
        image = self.prepared(pixels)
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
        with Apart():
            logits = scores(self.network(image))
        for hook in hooks:
            hook.remove()
        if missing := set(self.layers) - set(taps):
            raise ValueError(f"the network does not use its modules {sorted(missing)}")
        return (logits, *(taps[name] for name in self.layers))

    def prepared(self, pixels: Tensor) -> Tensor:
        """The network's own input, float32 [N,3,H,W]."""
        x = pixels.flip(-1) if self.flipped else pixels
        return ((x.float() - self.mean) / self.std).permute(0, 3, 1, 2)


def scores(answer: Any) -> Tensor:
    """The logits in what a network answers; a mask of one channel gets a background whose logit is 0.

    Networks answer with a tensor, with a dictionary that calls it `out` or `logits` (torchvision's segmenters,
    transformers), or with the logits before what only training needs. Raises `ValueError` for anything else.
    """
    if isinstance(answer, Mapping):
        answer = next((answer[name] for name in ("out", "logits") if name in answer), None)
    if isinstance(answer, (tuple, list)) and answer:
        answer = answer[0]
    if not isinstance(answer, Tensor):
        raise ValueError(f"the network answers with {type(answer).__name__}, not with a tensor of logits")
    if answer.dim() == 4 and answer.shape[1] == 1:
        return F.pad(answer, (0, 0, 0, 0, 1, 0))  # sigmoid(y) is the softmax of (0, y)
    return answer


def candidates(network: nn.Module, how: Preprocessing) -> dict[str, int]:
    """The modules whose output is a feature map [N,C,h,w] of several cells -> how deep they are nested.

    Of modules that give one and the same tensor only the outermost counts, and none that is called as something of
    the trunk or a tail is. Names are in the order of computation.
    """
    trunk = Trunk(network.cpu(), how, ())
    found: dict[str, Tensor] = {}
    names = {module: name for name, module in trunk.network.named_modules()}

    def note(module: nn.Module, _inputs: Any, output: Any) -> None:
        found.pop(names[module], None)
        if isinstance(output, Tensor) and output.dim() == 4 and output.shape[-2:].numel() > 1:
            found[names[module]] = output

    for module in trunk.network.modules():
        module.register_forward_hook(note)
    with torch.no_grad():
        answer = trunk(example(how))[0]
    nesting: dict[int, tuple[str, int]] = {}
    for name, tensor in found.items():
        depth = name.count(".")
        if name not in RESERVED and tensor is not answer and depth < nesting.get(id(tensor), ("", depth + 1))[1]:
            nesting[id(tensor)] = name, depth
    return dict(nesting.values())


def example(how: Preprocessing) -> Tensor:
    """Two pictures of noise of a network's size, uint8 [2,H,W,3]."""
    noise = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (2, how.height, how.width, 3), dtype=torch.uint8, generator=noise)


def trace(network: nn.Module, how: Preprocessing, layers: Sequence[str]) -> onnx.ModelProto:
    """The trunk as an ONNX model with a symbolic batch N.

    Every initializer keeps the name of its torch parameter behind `PREFIX`, none is merged with another or left
    out: `export.weights` reads them back. Nothing in it tells on which machine it was made. Raises `ValueError`
    for a layer that is not a module of its own, used, whose output is a feature map.
    """
    trunk = Trunk(network.cpu(), how, layers).eval()
    pixels = example(how)
    _check(trunk, pixels, network)
    batch = {PIXELS: {0: torch.export.Dim("N")}}
    with warnings.catch_warnings(), torch.no_grad():
        # torch 2.13's exporter copies its own deprecated LeafSpec
        warnings.filterwarnings("ignore", r".*LeafSpec.*is deprecated", FutureWarning)
        with AdaptivePooling():
            captured = torch.export.export(trunk, (pixels,), dynamic_shapes=batch)
        program = torch.onnx.export(
            captured,
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


def _check(trunk: Trunk, pixels: Tensor, network: nn.Module) -> None:
    """Raise `ValueError` for a layer that is no module of its own whose output is a feature map.

    Also where the network does not compute the same once nothing is overwritten.
    """
    known = dict(trunk.network.named_modules(remove_duplicate=False))
    if unknown := set(trunk.layers) - {IMAGE} - set(known):
        raise ValueError(f"the network has no module {sorted(unknown)}")
    with torch.no_grad():
        logits, *taps = trunk(pixels)
        own = scores(copy.deepcopy(network).eval()(trunk.prepared(pixels)))
    if not torch.allclose(logits, own, rtol=1e-3, atol=1e-3 * float(own.abs().max())):
        raise ValueError("the network counts on operations in place that return nothing: let it use what they return")
    for name, tap in zip(trunk.layers, taps, strict=True):
        if not isinstance(tap, Tensor) or tap.dim() != 4:
            raise ValueError(f"the layer {name!r} gives no feature map [N,C,h,w]")
        same = [other for other, t in zip(trunk.layers, taps, strict=True) if t is tap]
        if len(same) > 1:
            raise ValueError(f"the layers {same} are one and the same tensor")
