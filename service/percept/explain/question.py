"""What a client wants explained, checked against a model before any image is read.

A `Question` names methods, layers and classes as the client does. `resolve` returns the layers and class indices of one
model, or raises the reason why the model cannot answer the question. It knows no image.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Literal

from percept.bundle.manifest import IMAGE, Layer
from percept.errors import (
    BadParameter,
    GradientsUnavailable,
    MethodUnavailable,
    PerceptError,
    UnknownLayer,
    did_you_mean,
)
from percept.explain.faithfulness import require_scores
from percept.explain.methods.table import METHODS
from percept.explain.receptive_field import require_image_layer
from percept.imaging.geometry import Box
from percept.runtime.model import Model
from percept.tasks.table import TASKS
from percept.tasks.task import class_index

MAX_MAPS = 64  # in one response
MAX_FAITHFULNESS_MAPS = 16  # each costs as many passes of the network as two of the slowest maps
MAX_COMPARED_CLASSES = 6  # on a contact sheet


@dataclass(frozen=True)
class Question:
    """What is to be explained. An empty field has the default of the model.

    Each entry of `layers` is a layer, or several joined by a plus whose maps are fused into one. Without `targets` the
    `top` most important classes are explained. `against` is a class that is subtracted from each target. `place` is a
    rectangle (left, top, right, bottom) of the photo, or a point without extent: for a segmenter, the pixels to
    explain. `compare` adds all methods, classes or layers that a contact sheet shows. `faithfulness` measures each map;
    `effective` computes the effective receptive field of its hottest cell.
    """

    methods: tuple[str, ...] = ("gradcam",)
    layers: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    top: int = 1
    against: str | None = None
    place: Box | None = None
    compare: Literal["methods", "classes", "layers"] | None = None
    faithfulness: bool = False
    effective: bool = False


@dataclass(frozen=True, eq=False)
class ResolvedQuestion:
    """A question in terms of one model: `groups` of layers to fuse, and class indices.

    Without `targets` the `top` most important classes of the image are explained. `outputs` are the names of the trunk
    outputs that the maps are computed from.
    """

    model: Model
    methods: tuple[str, ...]
    groups: tuple[tuple[Layer, ...], ...]
    targets: tuple[int, ...]
    top: int
    against: int | None
    place: Box | None
    faithfulness: bool
    effective: bool
    outputs: frozenset[str]


def resolve(model: Model, question: Question) -> ResolvedQuestion:
    """Check a question against a model.

    Raises `UnknownLayer`, `UnknownClass`, `BadParameter`, or what `unavailable_reason` returns. It may run the tail of
    a layer once to see whether it is linear: see `needs_probe`.
    """
    manifest = model.manifest
    if question.place is not None and not TASKS[manifest.task].spatial:
        raise BadParameter("x, y and region are for segmentation: a classifier's classes have no pixels")
    if question.compare:
        question = _expand_comparison(model, question)
    groups = tuple(find_layers(model, names) for names in question.layers or (manifest.cam_layer,))
    layers = {layer.name: layer for group in groups for layer in group}.values()
    for method, layer in product(question.methods, layers):
        if reason := unavailable_reason(model, layer, method):
            raise reason
    outputs = {"logits", IMAGE} if question.effective else {"logits"}
    resolved = ResolvedQuestion(
        model=model,
        methods=question.methods,
        groups=groups,
        targets=tuple(class_index(manifest, target) for target in question.targets),
        top=question.top,
        against=None if question.against is None else class_index(manifest, question.against),
        place=question.place,
        faithfulness=question.faithfulness,
        effective=question.effective,
        outputs=frozenset(outputs).union(*map(model.network.outputs_for_gradients, layers)),
    )
    _check_measurements(resolved)
    return resolved


def _check_measurements(resolved: ResolvedQuestion) -> None:
    """Raise `BadParameter` for too many maps, or for a measurement that cannot be made of them."""
    classes = len(resolved.targets) or min(resolved.top, len(resolved.model.manifest.labels))
    maps = len(resolved.methods) * len(resolved.groups) * classes
    if maps > MAX_MAPS:
        raise BadParameter(f"the request is for {maps} maps; at most {MAX_MAPS} are made at once")
    if resolved.faithfulness:
        _require_faithfulness(resolved, maps)
    if resolved.effective:
        _require_effective_field(resolved)


def needs_probe(model: Model, question: Question) -> bool:
    """Whether `resolve` has to run the model's network, so that it must not be called on the event loop."""
    if question.compare not in ("methods", "layers") and not any(
        METHODS[name].needs_uniform_gradients or METHODS[name].needs_varying_gradients for name in question.methods
    ):
        return False
    layers = _named_layers(model, question)
    if question.compare == "layers":
        layers = list(model.manifest.layers)
    return not all(map(model.network.knows_linearity, layers))


def find_layer(model: Model, name: str) -> Layer:
    """The layer of that name; raises `UnknownLayer`, which lists the layers that exist."""
    layer = model.manifest.layer(name)
    if layer is None:
        names = [layer.name for layer in model.manifest.layers]
        suggestion = did_you_mean(name, names)
        raise UnknownLayer(
            f"model {model.manifest.name!r} has no layer {name!r}; it has {', '.join(names)}{suggestion}"
        )
    return layer


def find_layers(model: Model, names: str) -> tuple[Layer, ...]:
    """The layer of a name, or the layers of several names joined by a plus; raises `UnknownLayer`.

    A query string decodes a plus as a space. The longest names are found first, because a name may contain both.
    """
    if layer := model.manifest.layer(names):
        return (layer,)
    parts = re.split(r"([+ ])", names)  # names and what separates them
    ends = (end for end in range(len(parts) - 2, 0, -2) if model.manifest.layer("".join(parts[:end])))
    end = next(ends, 1)
    rest = "".join(parts[end + 1 :])
    return (find_layer(model, "".join(parts[:end])), *(find_layers(model, rest) if len(parts) > end else ()))


def unavailable_reason(model: Model, layer: Layer, method: str) -> PerceptError | None:
    """Why a method cannot be used at a layer, as the error to raise; None if it can. May run the layer's tail once."""
    row = METHODS[method]
    if row.needs in ("gradients", "tail") and layer.tail is None:
        return GradientsUnavailable(f"layer {layer.name!r} has no gradients: {layer.unavailable}")
    if layer.name == IMAGE and not row.at_image:
        return MethodUnavailable(
            f"{method} weights feature maps, and the image has none; use saliency, or another layer"
        )
    if row.needs_varying_gradients and model.network.has_uniform_gradients(layer):
        return MethodUnavailable(
            f"global average pooling follows {layer.name!r}: the gradient is the same in every cell, so {method} shows "
            "nothing; use an earlier layer"
        )
    if row.needs_uniform_gradients and not model.network.has_uniform_gradients(layer):
        return MethodUnavailable(
            f"{method} needs global average pooling and one linear layer after {layer.name!r}; use gradcam"
        )
    return None


def _expand_comparison(model: Model, question: Question) -> Question:
    """Name the methods, layers or classes that are compared, unless the client named them."""
    manifest = model.manifest
    match question.compare:
        case "methods":
            return replace(question, methods=_fast_methods(model, _named_layers(model, question)))
        case "layers" if not question.layers:
            [method] = question.methods
            usable = [layer.name for layer in manifest.layers if not unavailable_reason(model, layer, method)]
            return replace(question, layers=tuple(usable))
        case "classes" if not question.targets and question.top == 1:
            return replace(question, top=min(MAX_COMPARED_CLASSES, len(manifest.labels)))
    return question


def _named_layers(model: Model, question: Question) -> list[Layer]:
    """The layers that a question names, else the CAM layer of the model."""
    names = question.layers or (model.manifest.cam_layer,)
    return [layer for group in names for layer in find_layers(model, group)]


def _fast_methods(model: Model, layers: Sequence[Layer]) -> tuple[str, ...]:
    """The methods that work at these layers without passes of the whole network."""
    fast = (name for name, method in METHODS.items() if method.needs != "image")
    return tuple(name for name in fast if not any(unavailable_reason(model, layer, name) for layer in layers))


def _require_faithfulness(question: ResolvedQuestion, maps: int) -> None:
    """Raise `BadParameter` if the faithfulness of so many maps cannot be measured."""
    require_scores(question.model.manifest, question.against)
    if maps > MAX_FAITHFULNESS_MAPS:
        raise BadParameter(
            f"the request is for the faithfulness of {maps} maps; it is measured for {MAX_FAITHFULNESS_MAPS} at most"
        )


def _require_effective_field(question: ResolvedQuestion) -> None:
    """Raise an error if the effective receptive field of the hottest cell cannot be computed."""
    for group in question.groups:
        if len(set(group)) > 1:
            raise BadParameter(
                "field=effective needs maps of one layer: a cell of fused layers belongs to none of them"
            )
        require_image_layer(question.model, group[0])
