"""The query parameters of `/cam`: which maps, how they are shown, and in which format."""

from typing import Literal

from pydantic import Field, field_validator

from percept.api.negotiation import PICTURES, choose_format
from percept.api.params import ModelParams, Params, Rules, reject_inapplicable
from percept.errors import BadParameter
from percept.explain.faithfulness import PASSES
from percept.explain.methods.table import METHODS
from percept.explain.presentation import CamOutput, Style
from percept.explain.question import Question
from percept.explain.regions import Threshold
from percept.imaging.geometry import Box

ARCHIVES = ("multipart", "zip")
FORMATS = {
    "overlay": (*PICTURES, "npy", "json", *ARCHIVES),
    "heatmap": ("png", "jpeg", "webp", "npy", "json", *ARCHIVES),
    "sheet": (*PICTURES, *ARCHIVES),
}
DRAWN = {"format": (*PICTURES, *ARCHIVES)}
RULES: Rules = {
    "alpha": {"view": ("overlay", "sheet"), **DRAWN},
    "colormap": DRAWN,
    "legend": DRAWN,
    "field": {"format": (*PICTURES, *ARCHIVES, "json")},
    "size": {"format": ("npy", *ARCHIVES)},
    "scale": {"format": ("npy", *ARCHIVES)},
    "boxes": {"format": ("json", *ARCHIVES)},
}


class CamTargetParams(Params):
    """The parameters that choose the maps: method, classes, layers, and the region of the photo."""

    method: Literal[tuple(METHODS)] = Field("gradcam", description="how the map is made")  # type: ignore[valid-type]
    target: list[str] = Field([], description="labels or indices of classes, one map each; default: the top class")
    against: str | None = Field(None, description="a class to subtract: why the target and not this one")
    top: int = Field(1, ge=1, le=20, description="without target: number of the most important classes to explain")
    x: float | None = Field(
        None, ge=0, allow_inf_nan=False, description="segmentation: a photo pixel to explain, with y"
    )
    y: float | None = Field(
        None, ge=0, allow_inf_nan=False, description="segmentation: a photo pixel to explain, with x"
    )
    region: str | None = Field(
        None,
        pattern=r"^\d+(\.\d+)?(,\d+(\.\d+)?){3}$",
        description="segmentation: the rectangle left,top,right,bottom of the photo to explain",
    )
    layer: list[str] = Field(
        [], description="layers, one map each; a+b fuses two layers into one map; default: the CAM layer of the model"
    )
    faithfulness: bool = Field(
        False,
        description="measure how faithful each map is: how the score changes when its hot pixels are removed or "
        f"inserted; {PASSES} passes of the whole network for each map",
    )

    @field_validator("method", mode="before")
    @classmethod
    def _restore_plus(cls, value: object) -> object:
        """A plus in a query string is decoded as a space, unless it was written %2B."""
        return value.replace(" ", "+") if isinstance(value, str) else value

    def place(self) -> Box | None:
        """The rectangle of the photo to explain; a point has no extent. Raises `BadParameter`."""
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


class CamParams(Style, CamTargetParams):
    """The parameters of `GET /cam/{id}`."""

    format: Literal["jpeg", "png", "webp", "npy", "json", "multipart", "zip"] | None = Field(
        None, description="instead of the Accept header; multipart and zip give prediction, map and overlay together"
    )
    boxes: Threshold | None = Field(
        None,
        description="json, multipart, zip: bounding boxes of the regions above this share of the maximum, or above "
        "Otsu's threshold",
    )

    @field_validator("boxes")
    @classmethod
    def _check_share(cls, value: float | str | None) -> float | str | None:
        if isinstance(value, float) and not 0 < value < 1:
            raise ValueError("a share of the maximum lies between 0 and 1")
        return value

    def output(self, accept: str | None) -> CamOutput:
        """The format and style of the response; raises `BadParameter` or `NotAcceptable`."""
        format = choose_format(self.format, accept, FORMATS[self.view])
        if self.model_fields_set:
            reject_inapplicable(self, RULES, view=self.view, format=format)
        return CamOutput(format, self, self.boxes)

    def question(self) -> Question:
        """What is to be explained; raises `BadParameter` if parameters contradict each other."""
        if (self.view == "sheet") != (self.by is not None):
            raise BadParameter("view=sheet and by=methods|classes|layers need each other")
        if self.by == "methods" and "method" in self.changed:
            raise BadParameter("by=methods compares all methods: remove method")
        if self.target and "top" in self.changed:
            raise BadParameter("top is for the most important classes: it has no effect with target")
        return Question(
            methods=(self.method,),
            layers=tuple(self.layer),
            targets=tuple(self.target),
            top=self.top,
            against=self.against,
            place=self.place() if self.model_fields_set & {"x", "y", "region"} else None,
            compare=self.by,
            faithfulness=self.faithfulness,
            effective=self.field == "effective",
        )


class CamRequestParams(ModelParams, CamParams):
    """The parameters of `POST /cam`."""
