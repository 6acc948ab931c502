"""Query parameters: the base of all of them, and those of `/predict`.

A parameter that is unknown, or that would have no effect, is an error. All parameters are validated before the body of
the request is read.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from percept.api.negotiation import choose_format
from percept.bundle.manifest import Manifest
from percept.errors import BadParameter
from percept.pipeline import TOP_K
from percept.tasks.mask_picture import MaskPicture
from percept.tasks.table import TASKS

# Parameter → what it depends on (such as `view`) → the values with which it has an effect.
Rules = Mapping[str, Mapping[str, Sequence[str]]]


class Params(BaseModel):
    """The base of all query parameters."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    @property
    def changed(self) -> set[str]:
        """The parameters that are not at their defaults. Forms such as that of `/docs` send the defaults too."""
        fields = type(self).model_fields
        return {name for name in self.model_fields_set if getattr(self, name) != fields[name].get_default()}


class ModelParams(Params):
    """The parameters that choose the model."""

    model: str | None = Field(None, description="name of the model; default: the default model of the service")
    version: int | None = Field(None, description="version of the model; default: the newest")


def reject_inapplicable(params: Params, rules: Rules, **actual: str | None) -> None:
    """Raise `BadParameter` if a parameter was changed that has no effect with the `actual` values, such as the view."""
    if not params.model_fields_set:
        return
    for name in sorted(params.changed & rules.keys()):
        for condition, values in rules[name].items():
            if actual[condition] not in values:
                other = f", not for {condition}={actual[condition]}" if actual[condition] else ""
                raise BadParameter(f"{name} is for {condition}={'|'.join(values)}{other}: it would have no effect here")


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
        reject_inapplicable(self, PREDICT_RULES, task=manifest.task, view=self.view)
        if not TASKS[manifest.task].spatial:
            if self.view is not None:
                raise BadParameter(f"model {manifest.name!r} has no {self.view}: its task is {manifest.task}")
            choose_format(self.format, accept, ("json",))
            return None
        format = choose_format(self.format, accept, MASK_FORMATS[self.view])
        return None if format == "json" else MaskPicture(format, self.view or "mask", self.alpha)
