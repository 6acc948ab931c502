"""SOURCES: the libraries that torch networks come from, and what they state about a network's use.

A source is written `library:name?argument=value&...`, or `module.path:factory?...` for a user's function that returns
an `nn.Module`. Weights are `default` (the makers' own, which the library downloads), `none` (random, from a
fixed seed) or a file with a state dict.
"""

import sys
from ast import literal_eval
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import torch

from percept.bundle.preprocessing import Preprocessing
from percept.errors import BundleError, did_you_mean
from percept_models.sources.failure import explain_import, explain_loading
from percept_models.sources.parametrization import remove_weight_norms
from percept_models.sources.preprocessing import guess_preprocessing, unit_normalization
from percept_models.sources.state_dict import load_weights
from percept_models.sources.torch_source import SourceRequest, TorchSource
from percept_models.sources.user_module import load_user_network

# The signature of torchvision's compiled operators `nms` and `qnms`.
NMS_SIGNATURE = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
OTHER_FLOATS = {torch.float16, torch.bfloat16, torch.float64}  # bundles are computed in float32
# torchvision's segmenters take photos of any proportions.
SQUEEZED = (
    "torchvision keeps the proportions of a photo, and a bundle squeezes it to one size: only photos in the "
    "proportions of --size get torchvision's pixels, such as those of 4:3 with --size 520x693"
)
# torchvision's modules of other networks → their task
OTHER_TASKS = {
    "detection": "object detection",
    "optical_flow": "optical flow",
    "quantization": "quantized inference",
    "video": "videos",
}
CROP_MODES = {"center": "crop", "squash": "squeeze", "border": "pad"}  # timm's words for `Preprocessing.resize`


def load_source(source: str, weights: str = "default") -> TorchSource:
    """The network of a source, in `eval` mode and float32; raises `BundleError` where it cannot be loaded."""
    library, _, rest = source.partition(":")
    name, _, query = rest.partition("?")
    if not name:
        libraries = ", ".join(SOURCES)
        raise BundleError(f"{source!r} is not a source: write {libraries}:NAME, module.path:factory or FILE.onnx")
    arguments = {key: _parse_value(text) for key, text in parse_qsl(query, keep_blank_values=True)}
    torch.manual_seed(0)  # random weights are the same every time
    found = _load(library, SourceRequest(name, arguments, weights), source)
    if weights not in ("default", "none"):
        found = replace(found, notes=(*found.notes, *load_weights(found.network, Path(weights))))
    kinds = {tensor.dtype for tensor in found.network.state_dict().values() if isinstance(tensor, torch.Tensor)}
    remove_weight_norms(found.network)
    converted = sorted(str(kind).removeprefix("torch.") for kind in kinds & OTHER_FLOATS)
    found.network.eval().float()
    return replace(found, notes=(*found.notes, *(f"its {kind} weights became float32" for kind in converted)))


def _load(library: str, request: SourceRequest, source: str) -> TorchSource:
    loader = SOURCES.get(library)
    try:
        return loader(request) if loader else load_user_network(library, request)
    except ImportError as error:
        hint = ": run pip install 'percept-serve[zoo]'" if loader else ""
        raise BundleError(f"{source} cannot be loaded: {explain_import(error, library)}{hint}") from error
    except BundleError:
        raise
    except Exception as error:  # the library or the user's function may raise errors of every type
        reason = explain_loading(error)
        raise BundleError(f"{source} cannot be made with the weights {request.weights!r}: {reason}") from error


def _load_torchvision(request: SourceRequest) -> TorchSource:
    """A classifier or segmenter of torchvision."""
    models = import_torchvision().models
    _require_image_network(models, request.name)
    known = models.get_model_weights(request.name).DEFAULT
    options: dict[str, Any] = {"weights": known if request.pretrained else None}
    if request.name in models.list_models(models.segmentation) and not request.pretrained:
        options["weights_backbone"] = None
    if request.name in ("googlenet", "inception_v3") and not request.pretrained:
        options |= {"aux_logits": False, "init_weights": False}
    network = models.get_model(request.name, **options | dict(request.arguments))
    weights = str(known) if request.pretrained else request.weights
    preprocessing = _torchvision_preprocessing(known.transforms())
    notes = (SQUEEZED,) if preprocessing.resize == "squeeze" else ()
    return TorchSource(network, preprocessing, weights, tuple(known.meta["categories"]), notes=notes)


def _require_image_network(models: Any, name: str) -> None:
    """Raise `BundleError` where torchvision has no network of this name, or one that gives no classes or masks."""
    for module, task in OTHER_TASKS.items():
        if name in models.list_models(getattr(models, module)):
            raise BundleError(f"torchvision:{name} is for {task}: only classifiers and segmenters can be exported")
    if name not in models.list_models():
        raise BundleError(f"torchvision has no network {name!r}{did_you_mean(name, models.list_models())}")


def _torchvision_preprocessing(preset: Any) -> Preprocessing:
    """The preprocessing of torchvision's transforms for a network; segmenters have no crop."""
    resized = preset.resize_size[0]
    size = getattr(preset, "crop_size", preset.resize_size)[0]
    return Preprocessing(
        height=size,
        width=size,
        resize="crop" if hasattr(preset, "crop_size") else "squeeze",
        resize_size=(resized, resized),
        interpolation=preset.interpolation.value.removesuffix("-exact"),  # the same in Pillow
        **unit_normalization(preset.mean, preset.std),
    )


def _load_timm(request: SourceRequest) -> TorchSource:
    """A classifier of timm (Wightman 2019)."""
    timm = _import_after_torchvision("timm")
    if ":" not in request.name and not timm.is_model(request.name):
        raise BundleError(f"timm has no network {request.name!r}{did_you_mean(request.name, timm.list_models())}")
    network = timm.create_model(request.name, pretrained=request.pretrained, **request.arguments)
    card, config = network.pretrained_cfg, timm.data.resolve_data_config({}, model=network)
    subset = timm.data.infer_imagenet_subset(network)
    labels = timm.data.ImageNetInfo(subset).label_descriptions() if subset else card.get("label_names") or ()
    weights = f"timm {card.get('tag') or request.name}" if request.pretrained else request.weights
    license = card.get("license") or "not stated"
    preprocessing, crop_pct = _timm_preprocessing(config), config["crop_pct"]
    return TorchSource(network, preprocessing, weights, tuple(labels), license, crop_pct=crop_pct)


def _timm_preprocessing(config: Mapping[str, Any]) -> Preprocessing:
    """The preprocessing of timm's data configuration, as its `transforms_imagenet_eval` executes it."""
    _, height, width = config["input_size"]
    border = config["crop_mode"] == "border"
    return Preprocessing(
        height=height,
        width=width,
        resize=CROP_MODES[config["crop_mode"]],
        resize_size=(int(height / config["crop_pct"]), int(width / config["crop_pct"])),
        fill=tuple(round(255 * v) for v in config["mean"]) if border else (0, 0, 0),
        interpolation=config["interpolation"] if config["interpolation"] != "random" else "bilinear",
        **unit_normalization(config["mean"], config["std"]),
    )


def _load_smp(request: SourceRequest) -> TorchSource:
    """A segmenter of segmentation_models_pytorch (Iakubovskii 2019), which has no weights of whole networks."""
    if request.pretrained:
        raise BundleError("segmentation_models_pytorch has no weights of whole networks: use --weights FILE or none")
    arguments = {"encoder_weights": None, **request.arguments}
    network = _import_after_torchvision("segmentation_models_pytorch").create_model(request.name, **arguments)
    return TorchSource(network, guess_preprocessing(256), request.weights)


SOURCES: Mapping[str, Callable[[SourceRequest], TorchSource]] = {
    "torchvision": _load_torchvision,
    "timm": _load_timm,
    "smp": _load_smp,
}


def import_torchvision() -> Any:
    """Import torchvision, also beside a CPU build of torch, where its compiled operators do not load.

    No network here needs those operators, but torchvision's own modules look them up when they are imported. So their
    names are declared, only if the import fails.
    """
    try:
        return import_module("torchvision")
    except RuntimeError:
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
        for operator in ("nms", "qnms"):
            library.define(f"{operator}{NMS_SIGNATURE}")  # type: ignore[no-untyped-call]
        _DECLARED.append(library)
    return import_module("torchvision")


_DECLARED: list[torch.library.Library] = []  # operators live as long as the library that declared them


def _import_after_torchvision(package: str) -> Any:
    """Import a package that imports torchvision itself."""
    import_torchvision()
    return import_module(package)


def _parse_value(text: str) -> Any:
    """An argument in a source: a Python literal, else text."""
    try:
        return literal_eval(text)
    except (ValueError, SyntaxError):
        return text
