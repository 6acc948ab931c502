"""The parameters of `/cam`: which maps are meant, how they are shown, and in which format."""

import re
from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from percept.api.negotiation import choose
from percept.api.params import ModelQuery, Rules, changed, heed
from percept.errors import BadParameter
from percept.explain.faithfulness import TRIALS
from percept.explain.methods import METHODS
from percept.explain.presentation import Style
from percept.explain.question import Question, fault
from percept.imaging.decode import Box
from percept.runtime.model import Model

PICTURES = ("jpeg", "png", "webp")
TOGETHER = ("multipart", "zip")
OFFERED = {
    "overlay": (*PICTURES, "npy", "json", *TOGETHER),
    "heatmap": ("png", "jpeg", "webp", "npy", "json", *TOGETHER),
    "sheet": (*PICTURES, *TOGETHER),
}
# Where a parameter does something.
DRAWN = {"format": (*PICTURES, *TOGETHER)}
RULES: Rules = {
    "alpha": {"view": ("overlay", "sheet"), **DRAWN},
    "colormap": DRAWN,
    "legend": DRAWN,
    "field": {"format": (*PICTURES, *TOGETHER, "json")},
    "size": {"format": ("npy", *TOGETHER)},
    "scale": {"format": ("npy", *TOGETHER)},
    "boxes": {"format": ("json", *TOGETHER)},
}
SHEET_CLASSES = 6


class Asking(BaseModel):
    """The parameters that say which maps are meant."""

    method: Literal[tuple(METHODS)] = Field("gradcam", description="how the map is made")  # type: ignore[valid-type]
    target: list[str] = Field([], description="labels or indices of classes, a map each; default: the top class")
    against: str | None = Field(None, description="a class: why the target and not this one")
    top: int = Field(1, ge=1, le=20, description="without target: so many of the most important classes")
    x: float | None = Field(
        None, ge=0, allow_inf_nan=False, description="segmentation: a photo pixel to explain, with y"
    )
    y: float | None = Field(
        None, ge=0, allow_inf_nan=False, description="segmentation: a photo pixel to explain, with x"
    )
    region: str | None = Field(
        None,
        pattern=r"^\d+(\.\d+)?(,\d+(\.\d+)?){3}$",
        description="segmentation: the rectangle left,top,right,bottom of the photo that is explained",
    )
    layer: list[str] = Field(
        [], description="layers, a map each; a+b fuses two into one map; default: the CAM layer of the model"
    )

    faithfulness: bool = Field(
        False,
        description="measure how far each map can be trusted: what hiding and showing its hot places does to the "
        f"score; {TRIALS} passes of the whole network for each",
    )

    @field_validator("method", mode="before")
    @classmethod
    def _pluses(cls, value: object) -> object:
        """A plus in a query is a space, unless it was written %2B."""
        return value.replace(" ", "+") if isinstance(value, str) else value

    def place(self) -> Box | None:
        """The rectangle of the photo that is meant; a point has no extent."""
        if (self.x is None) != (self.y is None) or (self.region and self.x is not None):
            raise BadParameter("give x and y, or region, or none of them")
        if self.region:
            left, top, right, bottom = map(float, self.region.split(","))
            if left >= right or top >= bottom:
                raise BadParameter("region is left,top,right,bottom: left < right and top < bottom")
            return left, top, right, bottom
        if self.x is None or self.y is None:
            return None
        return self.x, self.y, self.x, self.y


class Looking(Style, Asking):
    """The parameters of `/cam/{id}`: how to look at an image."""

    model_config = ConfigDict(extra="forbid")

    format: Literal["jpeg", "png", "webp", "npy", "json", "multipart", "zip"] | None = Field(
        None, description="instead of the Accept header; multipart and zip give prediction, map and overlay together"
    )
    boxes: float | Literal["otsu"] | None = Field(
        None,
        description="json, multipart, zip: boxes of the regions above this share of the maximum, or Otsu's threshold",
    )

    @field_validator("boxes")
    @classmethod
    def _a_share(cls, value: float | str | None) -> float | str | None:
        if isinstance(value, float) and not 0 < value < 1:
            raise ValueError("a share of the maximum lies between 0 and 1")
        return value

    def chosen(self, accept: str | None) -> str:
        """The format of the answer; raises `BadParameter` where it has no use for a parameter, or `NotAcceptable`."""
        name = choose(self.format, accept, OFFERED[self.view])
        heed(self, RULES, view=self.view, format=name)
        return name

    def question(self, model: Model) -> Question:
        """What is asked of an image; raises `BadParameter` where parameters contradict each other."""
        if (self.view == "sheet") != (self.by is not None):
            raise BadParameter("view=sheet and by=methods|classes|layers need each other")
        if self.by == "methods" and "method" in changed(self):
            raise BadParameter("by=methods compares all of them: leave method away")
        if self.target and "top" in changed(self):
            raise BadParameter("top is for the most important classes, where no target is named")
        groups = tuple(tuple(re.split(r"[+ ]", group)) for group in self.layer)  # a plus in a query is a space
        question = Question(
            methods=(self.method,),
            layers=groups,
            targets=tuple(self.target),
            top=self.top,
            against=self.against,
            place=self.place(),
            faithfulness=self.faithfulness,
            effective=self.field == "effective",
        )
        match self.by:
            case "methods":
                return _replaced(question, methods=_quick(model, groups))
            case "layers" if not groups:
                layers = [(layer.name,) for layer in model.manifest.layers if not fault(model, layer, self.method)]
                return _replaced(question, layers=tuple(layers))
            case "classes" if not self.target and self.top == 1:
                return _replaced(question, top=min(SHEET_CLASSES, len(model.manifest.labels)))
        return question


class CamQuery(ModelQuery, Looking):
    """The parameters of `/cam`."""


def _replaced(question: Question, **changes: object) -> Question:
    return Question(**(vars(question) | changes))


def _quick(model: Model, groups: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """The methods that work at these layers without further passes of the whole network."""
    names = [name for group in groups for name in group] or [model.manifest.cam_layer]
    layers = [layer for layer in model.manifest.layers if layer.name in names]
    quick = (name for name, method in METHODS.items() if method.needs != "image")
    return tuple(name for name in quick if not any(fault(model, layer, name) for layer in layers))
