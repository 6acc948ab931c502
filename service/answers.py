"""The JSON answers of the service: what each endpoint gives besides pictures and arrays."""

from typing import Any, Literal

from pydantic import BaseModel, Field

from service.errors import BadParameter
from service.explain import Explanation, fault
from service.manifest import Layer, Manifest, Preprocessing, Provenance, ReceptiveField
from service.methods import METHODS
from service.pipeline import POOLS, Features, Predicted
from service.problems import Problem
from service.regions import regions
from service.repository import Model
from service.tasks import Prediction, Share
from service.view import View

MAX_REGIONS = 20  # in one answer, the hottest


class ModelName(BaseModel):
    """Which model answered."""

    name: str = Field(examples=["cifar10"])
    version: int = Field(examples=[1])
    task: str = Field(examples=["classification"])


class ImageSize(BaseModel):
    """The posted photo, upright."""

    width: int = Field(description="pixels", examples=[640])
    height: int = Field(description="pixels", examples=[480])


class Answer(BaseModel):
    """What every answer about one image says."""

    id: str = Field(description="names this answer; unguessable", examples=["q3Zt0uC2pXb9Lw1K"])
    model: ModelName
    image: ImageSize


class PredictAnswer(Answer):
    """Classes of a classifier, or the shares of a segmenter's classes."""

    predictions: list[Prediction] | None = Field(None, description="classification only")
    classes: list[Share] | None = Field(None, description="segmentation only")


class BatchAnswer(BaseModel):
    """One result or problem for each image of the request, in order."""

    results: list[PredictAnswer | Problem]


class LayerInfo(BaseModel):
    """A tapped layer: its shape [C,h,w], stride and receptive field in input pixels along (y, x)."""

    name: str = Field(examples=["stage2"])
    shape: tuple[int, int, int] = Field(examples=[(224, 8, 8)])
    stride: tuple[float, float] = Field(examples=[(4.0, 4.0)])
    dilation: tuple[int, int] = Field(examples=[(1, 1)])
    receptive_field: ReceptiveField | None
    gradients: bool = Field(description="whether gradient methods work here", examples=[True])
    unavailable: str | None = Field(None, description="why there are no gradients")


class Channel(BaseModel):
    """One channel of a feature map."""

    index: int
    mean: float
    std: float
    minimum: float
    maximum: float
    active: float = Field(description="share of the cells above 0")


class LayersAnswer(BaseModel):
    """The layers that a model taps."""

    model: ModelName
    layers: list[LayerInfo]


class FieldAnswer(BaseModel):
    """The receptive field of one cell: what of the photo it can see, in continuous coordinates of the photo."""

    cell: tuple[int, int] = Field(description="row and column in the map", examples=[(5, 3)])
    left: float
    top: float
    right: float
    bottom: float
    whole: bool = Field(description="whether the cell can see all that the network sees of the photo")


class FeaturesAnswer(Answer):
    """One layer's feature map in numbers: statistics by channel, or a pooled embedding."""

    layer: LayerInfo
    channels: list[Channel] | None = None
    pool: str | None = None
    embedding: list[float] | None = None
    field: FieldAnswer | None = Field(None, description="of the cell under x, y, where they were given")


class Target(BaseModel):
    """The class that an explanation is about, with its score in this image."""

    label: str = Field(examples=["cat"])
    index: int = Field(examples=[3])
    score: float = Field(examples=[0.93])
    against: str | None = Field(None, description="the class that was subtracted")


class Range(BaseModel):
    """Of the map before ReLU and scaling."""

    minimum: float = Field(examples=[-0.4])
    maximum: float = Field(examples=[2.7])


class Peak(BaseModel):
    """The centre of the hottest cell, in pixels of the photo; None everywhere if no cell is above 0."""

    x: float = Field(examples=[311.5])
    y: float = Field(examples=[204.0])


class RegionAnswer(BaseModel):
    """A hot region: its box and area in pixels of the photo."""

    left: int
    top: int
    right: int = Field(description="the first column beyond it")
    bottom: int = Field(description="the first row beyond it")
    area: int = Field(description="pixels of the photo")
    share: float = Field(description="of what the network saw, 0 to 1")
    mass: float = Field(description="share of all heat, 0 to 1")
    peak: float = Field(description="greatest heat in it, 0 to 1")


class CamAnswer(Answer):
    """A class-activation map in numbers."""

    method: str = Field(examples=["gradcam"])
    layer: str = Field(examples=["stage2"])
    target: Target
    raw: Range
    shape: tuple[int, int] = Field(description="cells of the map (h, w)", examples=[(8, 8)])
    peak: Peak | None
    regions: list[RegionAnswer] | None = Field(None, description="the hot regions, where boxes were asked for")


class CamsAnswer(BaseModel):
    """Several maps of one image: by method, then layer, then class."""

    results: list[CamAnswer]


class ModelSummary(ModelName):
    """A served model in one line."""

    versions: list[int]
    classes: int
    input: tuple[int, int] = Field(description="height and width in pixels", examples=[(32, 32)])
    precision: str = Field(description="of the trunk's weights", examples=["float32"])
    cam_layer: str
    default: bool = Field(description="whether it answers where no model is named")


class ModelsAnswer(BaseModel):
    """What is served, and what was refused with the reason."""

    models: list[ModelSummary]
    refused: dict[str, str]


class ModelLayer(LayerInfo):
    """A tapped layer, with the methods of `/cam` that work there and why others do not."""

    methods: list[str] = Field(examples=[["gradcam", "layercam"]])
    unavailable_methods: dict[str, str] = {}


class ModelAnswer(ModelSummary):
    """All that is known of a model."""

    labels: list[str]
    activation: str
    palette: list[tuple[int, int, int]]
    background: int | None
    preprocessing: Preprocessing
    layers: list[ModelLayer]
    provenance: Provenance


class Health(BaseModel):
    """The state of the service."""

    status: str = Field(examples=["ready"])
    models: list[str] = Field(examples=[["cifar10/1", "clothing/1"]])
    refused: dict[str, str] = {}


def model_name(manifest: Manifest) -> ModelName:
    """Which model answers."""
    return ModelName(name=manifest.name, version=manifest.version, task=manifest.task)


def layer_info(layer: Layer) -> LayerInfo:
    """A layer of a manifest as people see it."""
    known = layer.model_dump(exclude={"tail"})
    return LayerInfo(**known, gradients=layer.tail is not None)


def model_layers(model: Model) -> list[ModelLayer]:
    """The layers of a model with the methods that work there; a network may be asked for it."""
    found = []
    for layer in model.manifest.layers:
        faults = {method: fault(model, layer, method) for method in METHODS}
        reasons = {method: str(why) for method, why in faults.items() if why}
        usable = [method for method in METHODS if method not in reasons]
        found.append(ModelLayer(**dict(layer_info(layer)), methods=usable, unavailable_methods=reasons))
    return found


def predict_answer(predicted: Predicted) -> PredictAnswer:
    """The JSON of a prediction."""
    return PredictAnswer(**_about(predicted.view), **predicted.answer.model_dump())


def features_answer(features: Features, pool: str | None, place: tuple[float, float] | None = None) -> FeaturesAnswer:
    """The JSON of a feature map: an embedding where `pool` says how, else statistics by channel.

    With a `place` (x, y) of the photo the receptive field of the cell there too; raises as `field_answer` does.
    """
    about = {**_about(features.view), "layer": layer_info(features.layer)}
    if place is not None:
        about["field"] = field_answer(features, *place)
    A = features.activations
    if pool is not None:
        return FeaturesAnswer(**about, pool=pool, embedding=POOLS[pool](A).tolist())
    columns = (A.mean((1, 2)), A.std((1, 2)), A.min((1, 2)), A.max((1, 2)), (A > 0).mean((1, 2)))
    rows = zip(*(column.tolist() for column in columns), strict=True)
    names = ("mean", "std", "minimum", "maximum", "active")
    channels = [Channel(index=k, **dict(zip(names, row, strict=True))) for k, row in enumerate(rows)]
    return FeaturesAnswer(**about, channels=channels)


def field_answer(features: Features, x: float, y: float) -> FieldAnswer:
    """What the cell under the photo point (x, y) can see, as far as the network sees the photo.

    Raises `BadParameter` where it does not see that point.
    """
    view, h, w = features.view.geometry, *features.activations.shape[1:]
    down, across = view.find(x, y, (h, w))
    if not (x < view.width and y < view.height and 0 <= down < h and 0 <= across < w):
        raise BadParameter(
            f"the network did not see the photo at {x:g}, {y:g}: "
            f"it sees {view.seen[0]}..{view.seen[2]} x {view.seen[1]}..{view.seen[3]} of its pixels"
        )
    row, column, rule = int(down), int(across), features.view.model.manifest.preprocessing
    shape = (rule.height, rule.width)
    (top, bottom), (left, right) = (
        _sight(features.layer, *one) for one in zip((0, 1), (row, column), shape, strict=True)
    )
    box = (*view.locate(top, left, shape), *view.locate(bottom, right, shape))
    whole = box == (*view.locate(0, 0, shape), *view.locate(*shape, shape))
    names = ("left", "top", "right", "bottom")
    return FieldAnswer(cell=(row, column), whole=whole, **dict(zip(names, box, strict=True)))


def _sight(layer: Layer, axis: int, i: int, limit: int) -> tuple[float, float]:
    """From where to where cell `i` can see along an axis (0 down, 1 right) of `limit` input pixels."""
    field = layer.receptive_field
    if field is None:
        return 0.0, float(limit)
    centre, reach = field.start[axis] + i * layer.stride[axis], field.size[axis] / 2
    return min(max(centre - reach, 0.0), limit), min(max(centre + reach, 0.0), limit)


def cam_answer(explanation: Explanation, boxes: float | Literal["otsu"] | None = None) -> CamAnswer:
    """The JSON of a class-activation map, with its hot regions by a rule of `regions`."""
    manifest, raw = explanation.view.model.manifest, explanation.raw
    return CamAnswer(
        **_about(explanation.view),
        method=explanation.method,
        layer=explanation.layer,
        target=_target(manifest, explanation),
        raw=Range(minimum=float(raw.min()), maximum=float(raw.max())),
        shape=(raw.shape[0], raw.shape[1]),
        peak=_peak(explanation),
        regions=None if boxes is None else _regions(explanation, boxes),
    )


def _regions(explanation: Explanation, rule: float | Literal["otsu"]) -> list[RegionAnswer]:
    found = regions(explanation.heat, explanation.view.geometry, rule)
    return [
        RegionAnswer(**{name: getattr(one, name) for name in RegionAnswer.model_fields}) for one in found[:MAX_REGIONS]
    ]


def _target(manifest: Manifest, explanation: Explanation) -> Target:
    against = None if explanation.against is None else manifest.labels[explanation.against]
    index = explanation.target
    return Target(label=manifest.labels[index], index=index, score=explanation.score, against=against)


def _about(view: View) -> dict[str, Any]:
    size = ImageSize(width=view.photo.width, height=view.photo.height)
    return {"id": view.id, "model": model_name(view.model.manifest), "image": size}


def _peak(explanation: Explanation) -> Peak | None:
    heat = explanation.heat
    if not heat.max() > 0:
        return None
    row, column = divmod(int(heat.argmax()), heat.shape[1])
    shape = (heat.shape[0], heat.shape[1])
    x, y = explanation.view.geometry.locate(row + 0.5, column + 0.5, shape)
    return Peak(x=x, y=y)
