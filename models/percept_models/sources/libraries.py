"""SOURCES: where a torch network comes from, and what its makers say of how it is used.

A source is written `scheme:name?argument=value&...`, or `module.path:factory?...` for anything else that returns an
`nn.Module`. Out comes the network in `eval` mode with a guess of everything that a bundle must say about it. Weights
are `default` (the makers' own, which they download), `none` (random, from a fixed seed) or a file with a state dict.
"""

import sys
from ast import literal_eval
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import torch
from torch import nn

from percept.bundle.manifest import Preprocessing
from percept.errors import BundleError

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
ARGUMENTS = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"  # of torchvision's compiled operators
ENVELOPES = ("state_dict", "model_state_dict", "model")  # under which a checkpoint keeps the weights


@dataclass(frozen=True)
class Source:
    """A torch network with what its makers say of it; empty `labels` where they say nothing."""

    network: nn.Module
    preprocessing: Preprocessing
    weights: str
    labels: tuple[str, ...] = ()
    license: str = "not stated"


@dataclass(frozen=True)
class Order:
    """A source taken apart: what is asked of which library, and with which weights."""

    name: str
    arguments: Mapping[str, Any]
    weights: str

    @property
    def pretrained(self) -> bool:
        """Whether the makers' own weights are asked for."""
        return self.weights == "default"


def load(source: str, weights: str = "default") -> Source:
    """The network of a source. Raises `BundleError` with what to do where it cannot be had."""
    scheme, _, rest = source.partition(":")
    name, _, query = rest.partition("?")
    if not name:
        raise BundleError(f"{source!r} is no source: give {', '.join(SOURCES)}:NAME, module.path:factory or FILE.onnx")
    order = Order(name, {key: _value(text) for key, text in parse_qsl(query, keep_blank_values=True)}, weights)
    opener = SOURCES.get(scheme)
    torch.manual_seed(0)  # the same random weights every time
    try:
        found = opener(order) if opener else _factory(scheme, order)
    except ImportError as error:
        raise BundleError(
            f"{source} needs a package that is not installed ({error}): percept-serve[zoo] has it"
        ) from error
    except BundleError:
        raise
    except Exception as error:  # a library of other people, told by a user what to build
        raise BundleError(f"{source} cannot be made with the weights {weights!r}: {_first_line(error)}") from error
    if weights not in ("default", "none"):
        _fill(found.network, Path(weights))
    found.network.eval()
    return found


def _torchvision(order: Order) -> Source:
    """A classifier or segmenter of torchvision."""
    models = torchvision().models
    known = models.get_model_weights(order.name).DEFAULT
    blank: dict[str, Any] = {"weights": known if order.pretrained else None}
    if order.name in models.list_models(models.segmentation) and not order.pretrained:
        blank["weights_backbone"] = None
    if order.name in ("googlenet", "inception_v3") and not order.pretrained:
        blank |= {"aux_logits": False, "init_weights": False}
    network = models.get_model(order.name, **blank | dict(order.arguments))
    preset = known.transforms()
    crop = getattr(preset, "crop_size", None)
    short = preset.resize_size[0]
    how = _normalisation(preset.mean, preset.std) | {
        "height": (crop or preset.resize_size)[0],
        "width": (crop or preset.resize_size)[0],
        "interpolation": preset.interpolation.value,
    }
    if crop:
        how |= {"resize": "crop", "short_side": short}
    labels = tuple(known.meta["categories"])
    return Source(network, Preprocessing(**how), str(known) if order.pretrained else order.weights, labels)


def _timm(order: Order) -> Source:
    """A classifier of timm (Wightman 2019)."""
    timm = _import("timm")
    network = timm.create_model(order.name, pretrained=order.pretrained, **order.arguments)
    card, config = network.pretrained_cfg, timm.data.resolve_data_config({}, model=network)
    _, height, width = config["input_size"]
    how = _normalisation(config["mean"], config["std"]) | {
        "height": height,
        "width": width,
        "interpolation": config["interpolation"] if config["interpolation"] != "random" else "bilinear",
        "resize": {"center": "crop", "squash": "squeeze", "border": "pad"}[config["crop_mode"]],
    }
    if how["resize"] == "crop":
        how["short_side"] = int(max(height, width) / config["crop_pct"])
    subset = timm.data.infer_imagenet_subset(network)
    names = timm.data.ImageNetInfo(subset).label_descriptions() if subset else card.get("label_names") or ()
    weights = f"timm {card.get('tag') or order.name}" if order.pretrained else order.weights
    return Source(network, Preprocessing(**how), weights, tuple(names), card.get("license") or "not stated")


def _smp(order: Order) -> Source:
    """A segmenter of segmentation_models_pytorch (Iakubovskii 2019); it has no weights of whole networks."""
    if order.pretrained:
        raise BundleError("segmentation_models_pytorch has no weights of whole networks: say --weights FILE or none")
    arguments = {"encoder_weights": None, **order.arguments}
    network = _import("segmentation_models_pytorch").create_model(order.name, **arguments)
    return Source(network, _guess(256), order.weights)


def _factory(module: str, order: Order) -> Source:
    """Whatever `module.path:factory` returns; weights are the factory's own, if it has not been given a file."""
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    network = getattr(import_module(module), order.name)(**order.arguments)
    if not isinstance(network, nn.Module):
        raise BundleError(f"{module}:{order.name} returns {type(network).__name__}, not a torch.nn.Module")
    return Source(network, _guess(224), "as made by the factory" if order.pretrained else order.weights)


SOURCES: Mapping[str, Callable[[Order], Source]] = {"torchvision": _torchvision, "timm": _timm, "smp": _smp}


def torchvision() -> Any:
    """The package; beside a CPU build of torch its compiled operators do not load, and no network here needs them.

    Their names are declared then, and only then: torchvision's own modules ask for them when they are imported.
    """
    try:
        return import_module("torchvision")
    except RuntimeError:
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
        for operator in ("nms", "qnms"):
            library.define(f"{operator}{ARGUMENTS}")  # type: ignore[no-untyped-call]
        _DECLARED.append(library)
    return import_module("torchvision")


_DECLARED: list[torch.library.Library] = []  # operators live as long as the library that declared them


def _import(package: str) -> Any:
    """A package that imports torchvision itself."""
    torchvision()
    return import_module(package)


def _value(text: str) -> Any:
    """An argument in a query: a Python literal, else text."""
    try:
        return literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _normalisation(mean: Sequence[float], std: Sequence[float]) -> dict[str, Any]:
    """Mean and std, given in units of 0..1, as a manifest has them."""
    return {"mean": tuple(255 * v for v in mean), "std": tuple(255 * v for v in std)}


def _guess(size: int) -> Preprocessing:
    """Nothing is known: the whole photo, and ImageNet's colours."""
    return Preprocessing(height=size, width=size, **_normalisation(**IMAGENET))


def _fill(network: nn.Module, file: Path) -> None:
    """Load a state dict; heads that only training needs (`aux...`) may be left over, nothing may be missing."""
    state = _state(file)
    try:
        found = network.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise BundleError(f"the weights in {file.name} do not fit the network: {_last_line(error)}") from error
    spare = [key for key in found.unexpected_keys if not key.startswith("aux")]
    for what, keys in (("missing", found.missing_keys), ("left over", spare)):
        if keys:
            raise BundleError(
                f"the weights in {file.name} do not fit the network: {len(keys)} are {what}, {keys[0]!r} for one"
            )


def _state(file: Path) -> dict[str, Any]:
    """The state dict in a file of torch or safetensors, without what wrappers put around names and values."""
    try:
        if file.suffix == ".safetensors":
            state = import_module("safetensors.torch").load_file(file)
        else:
            state = torch.load(file, map_location="cpu", weights_only=True)
    except ImportError as error:
        raise BundleError(f"{file.name} needs the package safetensors") from error
    except Exception as error:  # pickle, zip and torch raise what they like
        raise BundleError(f"{file} cannot be read as weights: {_first_line(error)}") from error
    while isinstance(state, Mapping) and (inner := next((k for k in ENVELOPES if k in state), None)):
        state = state[inner]
    if not isinstance(state, Mapping) or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise BundleError(f"{file} holds no state dict")
    return {key.removeprefix("module."): value for key, value in state.items()}


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _last_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1].strip()
