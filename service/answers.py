"""The JSON answers of the service: what each endpoint gives besides pictures and arrays."""

from typing import Any

from pydantic import BaseModel, Field

from service.manifest import Layer, Manifest, Preprocessing, Provenance, ReceptiveField
from service.pipeline import POOLS, Explanation, Features, Predicted, View
from service.problems import Problem
from service.tasks import Prediction, Share


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


class FeaturesAnswer(Answer):
    """One layer's feature map in numbers: statistics by channel, or a pooled embedding."""

    layer: LayerInfo
    channels: list[Channel] | None = None
    pool: str | None = None
    embedding: list[float] | None = None


class Target(BaseModel):
    """The class that an explanation is about, with its score in this image."""

    label: str = Field(examples=["cat"])
    index: int = Field(examples=[3])
    score: float = Field(examples=[0.93])


class Range(BaseModel):
    """Of the map before ReLU and scaling."""

    minimum: float = Field(examples=[-0.4])
    maximum: float = Field(examples=[2.7])


class Peak(BaseModel):
    """The centre of the hottest cell, in pixels of the photo; None everywhere if no cell is above 0."""

    x: float = Field(examples=[311.5])
    y: float = Field(examples=[204.0])


class CamAnswer(Answer):
    """A class-activation map in numbers."""

    method: str = Field(examples=["gradcam"])
    layer: str = Field(examples=["stage2"])
    target: Target
    raw: Range
    shape: tuple[int, int] = Field(description="cells of the map (h, w)", examples=[(8, 8)])
    peak: Peak | None


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


class ModelAnswer(ModelSummary):
    """All that is known of a model."""

    labels: list[str]
    activation: str
    palette: list[tuple[int, int, int]]
    background: int | None
    preprocessing: Preprocessing
    layers: list[LayerInfo]
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


def predict_answer(predicted: Predicted) -> PredictAnswer:
    """The JSON of a prediction."""
    return PredictAnswer(**_about(predicted.view), **predicted.answer.model_dump())


def features_answer(features: Features, pool: str | None) -> FeaturesAnswer:
    """The JSON of a feature map: an embedding where `pool` says how, else statistics by channel."""
    about, info = _about(features.view), layer_info(features.layer)
    A = features.activations
    if pool is not None:
        return FeaturesAnswer(**about, layer=info, pool=pool, embedding=POOLS[pool](A).tolist())
    columns = (A.mean((1, 2)), A.std((1, 2)), A.min((1, 2)), A.max((1, 2)), (A > 0).mean((1, 2)))
    rows = zip(*(column.tolist() for column in columns), strict=True)
    names = ("mean", "std", "minimum", "maximum", "active")
    channels = [Channel(index=k, **dict(zip(names, row, strict=True))) for k, row in enumerate(rows)]
    return FeaturesAnswer(**about, layer=info, channels=channels)


def cam_answer(explanation: Explanation) -> CamAnswer:
    """The JSON of a class-activation map."""
    manifest, raw = explanation.view.model.manifest, explanation.raw
    label, index = manifest.labels[explanation.target], explanation.target
    return CamAnswer(
        **_about(explanation.view),
        method=explanation.method,
        layer=explanation.layer.name,
        target=Target(label=label, index=index, score=explanation.score),
        raw=Range(minimum=float(raw.min()), maximum=float(raw.max())),
        shape=(raw.shape[0], raw.shape[1]),
        peak=_peak(explanation),
    )


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
