"""The query parameters of `/models/{name}/filters`: which filter pictures, and in which format."""

from pydantic import Field

from percept.api.params import VersionParams
from percept.bundle.manifest import FilterKind


class FiltersParams(VersionParams):
    """The parameters of `/models/{name}/filters`."""

    view: FilterKind | None = Field(
        None,
        description="`kernels`: the weights of the first convolution; `maxima`: images that maximise the activation "
        "of single channels; `inversion`: images reconstructed from the activations of a layer; default: maxima if a "
        "layer is given, else kernels (JSON: all)",
    )
    layer: str | None = Field(None, description="for maxima and inversion: the layer; default: all layers")
    channel: int | None = Field(
        None, ge=0, description="for kernels, and for maxima of one layer: show the tile of this channel only"
    )
    format: str | None = Field(None, description="`png`, `jpeg`, `webp` or `json`; default: by Accept, else png")
