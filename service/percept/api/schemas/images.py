"""The JSON answers about images, and what the headers of pictures and arrays say of them."""

from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from pydantic import BaseModel, Field

from percept.api.problems import Problem
from percept.api.schemas.models import LayerInfo, ModelName, layer_info, model_name
from percept.bundle.manifest import Manifest
from percept.explain.faithfulness import Faithfulness
from percept.explain.maps import peak
from percept.explain.question import Explanation
from percept.explain.receptive_field import FieldAnswer, TracedAnswer, field_of_peak, field_under, traced
from percept.explain.regions import Rule, regions
from percept.pipeline import POOLS, Features, Predicted
from percept.tasks.input_image import View
from percept.tasks.table import Prediction, Share

MAX_REGIONS = 20  # in one answer, the hottest


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


class Channel(BaseModel):
    """One channel of a feature map."""

    index: int
    mean: float
    std: float
    minimum: float
    maximum: float
    active: float = Field(description="share of the cells above 0")


class FeaturesAnswer(Answer):
    """One layer's feature map in numbers: statistics by channel, or a pooled embedding."""

    layer: LayerInfo
    channels: list[Channel] | None = None
    pool: str | None = None
    embedding: list[float] | None = None
    field: TracedAnswer | FieldAnswer | None = Field(None, description="of the cell under x, y, where they were given")


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
    field: TracedAnswer | FieldAnswer | None = Field(
        description="what of the photo that cell can see, in theory, and with field=effective what moves it; none for "
        "a map of different layers fused"
    )


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
    faithfulness: Faithfulness | None = Field(None, description="how far the map can be trusted, where asked for")


class CamsAnswer(BaseModel):
    """Several maps of one image: by method, then layer, then class."""

    results: list[CamAnswer]


def predict_answer(predicted: Predicted) -> PredictAnswer:
    """The JSON of a prediction."""
    return PredictAnswer(**_about(predicted.view), **dict(predicted.answer))


def features_answer(features: Features, pool: str | None, place: tuple[float, float] | None = None) -> FeaturesAnswer:
    """The JSON of a feature map: an embedding where `pool` says how, else statistics by channel.

    With a `place` (x, y) of the photo the receptive field of the cell there too; raises as `field_under` does.
    """
    about = {**_about(features.view), "layer": layer_info(features.layer)}
    if place is not None:
        field = field_under(features.view, features.layer, *place)
        influence = features.influence
        about["field"] = field if influence is None else traced(features.view, field, influence)
    A = features.activations
    if pool is not None:
        return FeaturesAnswer(**about, pool=pool, embedding=POOLS[pool](A).tolist())
    columns = (A.mean((1, 2)), A.std((1, 2)), A.min((1, 2)), A.max((1, 2)), (A > 0).mean((1, 2)))
    rows = zip(*(column.tolist() for column in columns), strict=True)
    names = ("mean", "std", "minimum", "maximum", "active")
    channels = [Channel(index=k, **dict(zip(names, row, strict=True))) for k, row in enumerate(rows)]
    return FeaturesAnswer(**about, channels=channels)


def cam_answer(explanation: Explanation, boxes: Rule | None = None) -> CamAnswer:
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
        faithfulness=explanation.faithfulness,
    )


def cams_answer(found: Sequence[Explanation], boxes: Rule | None = None) -> CamAnswer | CamsAnswer:
    """The JSON of one map, or of several."""
    answers = [cam_answer(one, boxes) for one in found]
    return answers[0] if len(answers) == 1 else CamsAnswer(results=answers)


def cam_headers(explanation: Explanation) -> dict[str, str]:
    """What the headers of a picture or an array say of the map that it shows."""
    manifest, raw, trust = explanation.view.model.manifest, explanation.raw, explanation.faithfulness
    against = "" if explanation.against is None else f"; against={quote(manifest.labels[explanation.against])}"
    label = quote(manifest.labels[explanation.target])
    return {
        "Percept-Id": explanation.view.id,
        "Percept-Model": f"{manifest.name}/{manifest.version}",
        "Percept-Method": explanation.method,
        "Percept-Layer": explanation.layer,
        "Percept-Target": f"{explanation.target}; label={label}; score={explanation.score:.6g}{against}",
        "Percept-Raw-Range": f"{raw.min():.6g} {raw.max():.6g}",
        **({"Percept-Faithfulness": trust.line} if trust else {}),
    }


def _regions(explanation: Explanation, rule: Rule) -> list[RegionAnswer]:
    found = regions(explanation.heat, explanation.view.geometry, rule)
    return [
        RegionAnswer(**{name: getattr(one, name) for name in RegionAnswer.model_fields}) for one in found[:MAX_REGIONS]
    ]


def _target(manifest: Manifest, explanation: Explanation) -> Target:
    against = None if explanation.against is None else manifest.labels[explanation.against]
    index = explanation.target
    return Target(label=manifest.labels[index], index=index, score=explanation.score, against=against)


def _about(view: View) -> dict[str, Any]:
    size = ImageSize(width=view.geometry.width, height=view.geometry.height)
    return {"id": view.id, "model": model_name(view.model.manifest), "image": size}


def _peak(explanation: Explanation) -> Peak | None:
    cell = peak(explanation.heat)
    if cell is None:
        return None
    (row, column), (h, w) = cell, explanation.heat.shape
    x, y = explanation.view.geometry.locate(row + 0.5, column + 0.5, (h, w))
    return Peak(x=x, y=y, field=field_of_peak(explanation))
