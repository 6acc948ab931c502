"""The JSON responses about images, and the `Percept-*` headers of pictures and arrays.

Predictions, features and explanations come in; pydantic models leave. This module does not know the request.
"""

from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from pydantic import BaseModel, Field

from percept.api.problems import Problem
from percept.api.schemas.models import LayerInfo, ModelName, layer_info, model_name
from percept.bundle.manifest import Manifest
from percept.explain.explanation import Explanation
from percept.explain.faithfulness import Faithfulness
from percept.explain.features import FeatureMap, FeatureOutput
from percept.explain.maps import find_peak
from percept.explain.receptive_field import (
    TheoreticalAndEffectiveField,
    TheoreticalField,
    add_effective_field,
    field_at_peak,
    field_at_point,
)
from percept.explain.regions import HotRegion
from percept.pipeline import Predicted
from percept.tasks.classification import Prediction
from percept.tasks.input_image import InputImage
from percept.tasks.segmentation import Share

MAX_REGIONS = 20  # in one response: those with the largest mass


class ImageSize(BaseModel):
    """The size of the posted photo, after EXIF rotation."""

    width: int = Field(description="pixels", examples=[640])
    height: int = Field(description="pixels", examples=[480])


class Answer(BaseModel):
    """The fields of every response about one image."""

    id: str = Field(description="the id of this image for later requests; unguessable", examples=["q3Zt0uC2pXb9Lw1K"])
    model: ModelName
    image: ImageSize


class PredictAnswer(Answer):
    """The best classes of a classifier, or the area of each class of a segmenter."""

    predictions: list[Prediction] | None = Field(None, description="classification only")
    classes: list[Share] | None = Field(None, description="segmentation only")


class BatchAnswer(BaseModel):
    """A result or a problem for each image of the request, in order."""

    results: list[PredictAnswer | Problem]


class Channel(BaseModel):
    """One channel of a feature map."""

    index: int
    mean: float
    std: float
    minimum: float
    maximum: float
    active: float = Field(description="share of the cells above 0, 0 to 1")


class FeaturesAnswer(Answer):
    """The feature map of a layer: statistics of each channel, or a pooled embedding."""

    layer: LayerInfo
    channels: list[Channel] | None = None
    pool: str | None = None
    embedding: list[float] | None = None
    field: TheoreticalAndEffectiveField | TheoreticalField | None = Field(
        None, description="the receptive field of the cell at x, y, if given"
    )


class Target(BaseModel):
    """The explained class, with its score in this image."""

    label: str = Field(examples=["cat"])
    index: int = Field(examples=[3])
    score: float = Field(examples=[0.93])
    against: str | None = Field(None, description="the class whose logit was subtracted")


class Range(BaseModel):
    """The range of the map before ReLU and scaling."""

    minimum: float = Field(examples=[-0.4])
    maximum: float = Field(examples=[2.7])


class Peak(BaseModel):
    """The centre of the hottest cell, in pixels of the photo."""

    x: float = Field(examples=[311.5])
    y: float = Field(examples=[204.0])
    field: TheoreticalAndEffectiveField | TheoreticalField | None = Field(
        description="the receptive field of that cell, with field=effective also the effective one; null for a map "
        "fused from different layers"
    )


class RegionAnswer(BaseModel):
    """A hot region: its bounding box and area in pixels of the photo."""

    left: int
    top: int
    right: int = Field(description="the first column right of the region")
    bottom: int = Field(description="the first row below the region")
    area: int = Field(description="pixels of the photo")
    share: float = Field(description="share of the area that the network sees, 0 to 1")
    mass: float = Field(description="share of all heat, 0 to 1")
    peak: float = Field(description="greatest heat in the region, 0 to 1")


class CamAnswer(Answer):
    """A class-activation map as numbers."""

    method: str = Field(examples=["gradcam"])
    layer: str = Field(examples=["stage2"])
    target: Target
    raw: Range
    shape: tuple[int, int] = Field(description="cells of the map (h, w)", examples=[(8, 8)])
    peak: Peak | None = Field(description="null if no cell is above 0")
    regions: list[RegionAnswer] | None = Field(None, description="the hot regions, if requested by boxes")
    faithfulness: Faithfulness | None = Field(None, description="how faithful the map is to the network, if requested")


class CamsAnswer(BaseModel):
    """Several maps of one image, ordered by method, then layer, then class."""

    results: list[CamAnswer]


def predict_answer(predicted: Predicted) -> PredictAnswer:
    """The JSON of a prediction."""
    return PredictAnswer(**_common_fields(predicted.image), **dict(predicted.answer))


def features_answer(features: FeatureMap, output: FeatureOutput) -> FeaturesAnswer:
    """The JSON of a feature map: its embedding or its channel statistics.

    If the output has a point, the receptive field of the cell there too; raises as `field_at_point` does.
    """
    common = {**_common_fields(features.image), "layer": layer_info(features.layer)}
    if output.point is not None:
        field = field_at_point(features.image, features.layer, *output.point)
        influence = features.influence
        common["field"] = field if influence is None else add_effective_field(features.image, field, influence)
    if features.embedding is not None:
        return FeaturesAnswer(**common, pool=output.pool, embedding=features.embedding.tolist())
    assert features.statistics is not None
    columns = features.statistics._asdict()
    rows = zip(*(column.tolist() for column in columns.values()), strict=True)
    channels = [Channel(index=k, **dict(zip(columns, row, strict=True))) for k, row in enumerate(rows)]
    return FeaturesAnswer(**common, channels=channels)


def cam_answer(explanation: Explanation) -> CamAnswer:
    """The JSON of one map."""
    manifest, raw, regions = explanation.image.model.manifest, explanation.raw, explanation.regions
    return CamAnswer(
        **_common_fields(explanation.image),
        method=explanation.method,
        layer=explanation.layer,
        target=_target(manifest, explanation),
        raw=Range(minimum=float(raw.min()), maximum=float(raw.max())),
        shape=(raw.shape[0], raw.shape[1]),
        peak=_peak(explanation),
        regions=None if regions is None else list(map(_region, regions[:MAX_REGIONS])),
        faithfulness=explanation.faithfulness,
    )


def cams_answer(explanations: Sequence[Explanation]) -> CamAnswer | CamsAnswer:
    """The JSON of one map, or of several."""
    answers = list(map(cam_answer, explanations))
    return answers[0] if len(answers) == 1 else CamsAnswer(results=answers)


def cam_headers(explanation: Explanation) -> dict[str, str]:
    """The headers that describe the map of a picture or an array."""
    manifest, raw, faithfulness = explanation.image.model.manifest, explanation.raw, explanation.faithfulness
    against = "" if explanation.against is None else f"; against={quote(manifest.labels[explanation.against])}"
    label = quote(manifest.labels[explanation.target])
    return {
        "Percept-Id": explanation.image.id,
        "Percept-Model": f"{manifest.name}/{manifest.version}",
        "Percept-Method": explanation.method,
        "Percept-Layer": quote(explanation.layer, safe="+/"),
        "Percept-Target": f"{explanation.target}; label={label}; score={explanation.score:.6g}{against}",
        "Percept-Raw-Range": f"{raw.min():.6g} {raw.max():.6g}",
        **({"Percept-Faithfulness": faithfulness.header_value} if faithfulness else {}),
    }


def _region(region: HotRegion) -> RegionAnswer:
    return RegionAnswer(**{name: getattr(region, name) for name in RegionAnswer.model_fields})


def _target(manifest: Manifest, explanation: Explanation) -> Target:
    against = None if explanation.against is None else manifest.labels[explanation.against]
    index = explanation.target
    return Target(label=manifest.labels[index], index=index, score=explanation.score, against=against)


def _common_fields(image: InputImage) -> dict[str, Any]:
    size = ImageSize(width=image.geometry.width, height=image.geometry.height)
    return {"id": image.id, "model": model_name(image.model.manifest), "image": size}


def _peak(explanation: Explanation) -> Peak | None:
    cell = find_peak(explanation.heat)
    if cell is None:
        return None
    (row, column), (h, w) = cell, explanation.heat.shape
    x, y = explanation.image.geometry.to_photo(row + 0.5, column + 0.5, (h, w))
    return Peak(x=x, y=y, field=field_at_peak(explanation))
