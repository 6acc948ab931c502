"""The query parameters of `/features`: which layer, what of it, and in which format."""

from typing import Literal

from pydantic import Field

from percept.api.negotiation import PICTURES, choose_format
from percept.api.params import ModelParams, Params, Rules, reject_inapplicable
from percept.bundle.manifest import Manifest
from percept.errors import BadParameter
from percept.explain.features import FeatureOutput, Point, View
from percept.imaging.colormaps import COLORMAPS

FORMATS = {
    None: ("json", "npy"),
    "grid": ("png", "jpeg", "webp"),
    "components": PICTURES,
    "channel": ("png", "jpeg", "webp"),
    "field": (*PICTURES, "json"),
    "effective": (*PICTURES, "npy", "json"),
}
FIELD_VIEWS = ("field", "effective")
RULES: Rules = {"channels": {"view": ("grid",)}, "colormap": {"view": ("grid", "channel")}}


class FeaturesParams(Params):
    """The parameters of `GET /features/{id}`."""

    layer: str | None = Field(None, description="name of the layer; without it the layers are listed")
    pool: Literal["avg", "max"] | None = Field(None, description="pool the feature map to an embedding")
    view: View | None = Field(
        None,
        description="a picture: the strongest channels (grid), the principal components as colours over the photo, one "
        "channel over the photo, or the receptive field (field) or effective receptive field (effective) of the cell "
        "at x, y",
    )
    format: Literal["json", "npy", "png", "jpeg", "webp"] | None = Field(
        None, description="instead of the Accept header"
    )
    channels: int = Field(25, ge=1, le=256, description="number of channels in the grid")
    channel: int | None = Field(None, description="the channel of view=channel")
    x: float | None = Field(
        None,
        ge=0,
        allow_inf_nan=False,
        description="view=field|effective, json: a point of the photo in pixels, with y",
    )
    y: float | None = Field(
        None,
        ge=0,
        allow_inf_nan=False,
        description="view=field|effective, json: a point of the photo in pixels, with x",
    )
    colormap: Literal[COLORMAPS] = Field(  # type: ignore[valid-type]
        "viridis", description="colours of the grid and of the channel"
    )

    @property
    def point(self) -> Point | None:
        """The point of the photo, if both coordinates are given."""
        return None if self.x is None or self.y is None else (self.x, self.y)

    def output(self, manifest: Manifest, accept: str | None) -> FeatureOutput:
        """What the response shows of the layer; raises `BadParameter` or `NotAcceptable`."""
        self._check_combination()
        self._check_channel(manifest)
        reject_inapplicable(self, RULES, view=self.view)
        format = choose_format(self.format, accept, FORMATS[self.view])
        if self.point is not None and self.view not in FIELD_VIEWS and format != "json":
            raise BadParameter("x and y are for view=field, view=effective and for JSON")
        return FeatureOutput(format, self.view, self.pool, self.channels, self.channel, self.colormap, self.point)

    def check_listing(self, manifest: Manifest) -> None:
        """Raise `BadParameter` if parameters are given that are about one layer, while no layer is named."""
        harmless = {*ModelParams.model_fields, *(["format"] if self.format == "json" else [])}
        if lost := self.changed - harmless:
            names = ", ".join(layer.name for layer in manifest.layers)
            raise BadParameter(
                f"{', '.join(sorted(lost))} needs a layer, one of {names}; without a layer the layers are listed"
            )

    def _check_combination(self) -> None:
        if self.pool is not None and self.view is not None:
            raise BadParameter(f"pool gives an embedding and view={self.view} a picture: use one of them")
        if (self.x is None) != (self.y is None):
            raise BadParameter("x and y need each other")
        if (self.view == "channel") != (self.channel is not None):
            raise BadParameter("view=channel and channel=0, 1, … need each other")
        if self.view in FIELD_VIEWS and self.point is None:
            raise BadParameter(f"view={self.view} needs x and y: the point of the photo whose cell is shown")

    def _check_channel(self, manifest: Manifest) -> None:
        layer = manifest.layer(self.layer or "")
        if layer and self.channel is not None and not 0 <= self.channel < layer.shape[0]:
            raise BadParameter(f"layer {layer.name!r} has {layer.shape[0]} channels, 0 to {layer.shape[0] - 1}")


class FeaturesRequestParams(ModelParams, FeaturesParams):
    """The parameters of `POST /features`."""
