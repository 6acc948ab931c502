"""The query parameters of `/predict`: how many classes, or which picture of the mask, and in which format."""

from typing import Literal

from pydantic import Field

from percept.api.negotiation import choose_format
from percept.api.params import ModelParams, Rules, reject_inapplicable
from percept.bundle.manifest import Manifest
from percept.errors import BadParameter
from percept.pipeline import TOP_K
from percept.tasks.mask_picture import MaskPicture
from percept.tasks.table import TASKS

MASK_FORMATS = {
    None: ("json", "png"),
    "mask": ("png", "webp"),
    "overlay": ("jpeg", "png", "webp"),
}


PREDICT_RULES: Rules = {"top_k": {"task": ("classification",)}, "alpha": {"view": ("overlay",)}}


class PredictParams(ModelParams):
    """The parameters of `/predict`."""

    top_k: int = Field(TOP_K, ge=1, description="number of classes in a classifier's response")
    view: Literal["mask", "overlay"] | None = Field(None, description="segmentation: what to show")
    format: Literal["json", "jpeg", "png", "webp"] | None = Field(None, description="instead of the Accept header")
    alpha: float = Field(0.6, ge=0, le=1, description="opacity of an overlay")

    def picture(self, manifest: Manifest, accept: str | None) -> MaskPicture | None:
        """The picture that the response consists of; None for JSON. Raises `BadParameter` or `NotAcceptable`."""
        if self.model_fields_set:
            reject_inapplicable(self, PREDICT_RULES, task=manifest.task, view=self.view)
        if not TASKS[manifest.task].spatial:
            if self.view is not None:
                raise BadParameter(f"model {manifest.name!r} has no {self.view}: its task is {manifest.task}")
            choose_format(self.format, accept, ("json",))
            return None
        format = choose_format(self.format, accept, MASK_FORMATS[self.view])
        return None if format == "json" else MaskPicture(format, self.view or "mask", self.alpha)
