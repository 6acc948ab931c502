"""The JSON response about the filter pictures of a bundle.

Descriptions from the manifest come in; a pydantic model leaves. It reads no picture.
"""

from pydantic import BaseModel, Field

from percept.api.schemas.models import ModelName, model_name
from percept.bundle.manifest import FilterKind, FilterPicture, Manifest


class FilterPictureInfo(BaseModel):
    """A filter picture: what each of its tiles shows."""

    view: FilterKind
    layer: str | None = Field(examples=["stage2"])
    size: tuple[int, int] = Field(description="height and width of a tile in pixels", examples=[(32, 32)])
    channels: list[int] = Field(description="the channel of each tile", examples=[[0, 28, 56]])
    scores: list[float] = Field(
        description="maxima: the mean activation of the channel in its image; inversion: the relative error of the "
        "activations, ‖A(x) - A‖² / ‖A‖²",
        examples=[[4.2, 3.1, 5.0]],
    )
    noise: list[float] = Field(
        description="maxima: the largest mean activation in noise images, for comparison", examples=[[0.4, 0.2, 0.7]]
    )


class FiltersAnswer(BaseModel):
    """The filter pictures that a bundle holds."""

    model: ModelName
    filters: list[FilterPictureInfo]


def filters_answer(manifest: Manifest, pictures: list[FilterPicture]) -> FiltersAnswer:
    """The JSON of some of a bundle's filter pictures."""
    return FiltersAnswer(model=model_name(manifest), filters=[_info(picture) for picture in pictures])


def _info(picture: FilterPicture) -> FilterPictureInfo:
    fields = picture.model_dump(exclude={"kind", "file", "tile"})
    return FilterPictureInfo(view=picture.kind, size=picture.tile, **fields)
